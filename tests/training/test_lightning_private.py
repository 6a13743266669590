"""Whether Lightning still has what it does not promise to keep, and whether it still means the same."""

import inspect

import pytest
from pytorch_lightning import Callback
from pytorch_lightning.cli import LightningCLI
from stand_ins import TinyData, TinyModel, fit

from training.lightning_private import CLI, number_log_rows_by_steps, validation_is_due


class Watch(Callback):
    """Notes what is due after each batch, and what comes."""

    def __init__(self):
        self.due, self.came = [], []

    def on_train_batch_end(self, trainer, *_):
        if validation_is_due(trainer):
            self.due.append(trainer.global_step)

    def on_validation_end(self, trainer, *_):
        self.came.append(trainer.global_step)


@pytest.mark.parametrize("options", [{"val_check_interval": 4}, {"val_check_interval": 5}, {"limit_val_batches": 0}])
def test_a_validation_that_is_due_comes(tmp_path, options):
    watch = Watch()
    fit(tmp_path, [watch], **options)
    assert watch.due == watch.came
    interval = options.get("val_check_interval")
    assert watch.came == (list(range(interval, 13, interval)) if interval else [])


def test_log_rows_are_numbered_by_the_count_that_is_set(tmp_path):
    class Numbered(Callback):
        def on_train_batch_start(self, trainer, *_):
            trainer.fit_loop.epoch_loop._batches_that_stepped = 100
            assert trainer.global_step < 100
            if trainer.global_step == 2:
                number_log_rows_by_steps(trainer)

    fit(tmp_path, [Numbered()], max_steps=3, val_check_interval=100)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["100", "100", "2"]


def test_the_command_line_asks_the_replaced_method_for_the_hyperparameters_of_a_checkpoint():
    asked = []

    class Asked(CLI):
        def _parse_ckpt_path(self):
            asked.append(self.config)
            super()._parse_ckpt_path()

    Asked(TinyModel, TinyData, run=False, save_config_callback=None, args=[])
    assert len(asked) == 1
    assert "hyper_parameters" in inspect.getsource(LightningCLI._parse_ckpt_path)

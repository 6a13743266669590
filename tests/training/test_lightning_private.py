"""Whether Lightning still has what it does not promise to keep, and whether it still means the same."""

import inspect
import signal
import subprocess
import sys

import pytest
from lightning_fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.cli import LightningCLI
from stand_ins import TinyData, TinyModel, fit

from training.lightning_private import (
    CLI,
    count_rows_by_steps,
    leave_signals_alone,
    look_for_unused_parameters,
    starts_by,
    take_started_processes,
    uncount_batch_that_has_not_begun,
)


def test_a_batch_that_has_not_begun_is_counted_until_it_is_uncounted(tmp_path):
    saved = []

    class Save(Callback):
        def on_train_batch_start(self, trainer, *_):
            trainer.save_checkpoint(tmp_path / "start.ckpt")

        def on_train_batch_end(self, trainer, *_):
            trainer.save_checkpoint(tmp_path / "end.ckpt")

        def on_save_checkpoint(self, trainer, module, checkpoint):
            counts = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            before = [(counts[key]["ready"], counts[key]["started"]) for key in ("total", "current")]
            uncount_batch_that_has_not_begun(checkpoint)
            after = [(counts[key]["ready"], counts[key]["started"]) for key in ("total", "current")]
            saved.append((before, after))

    fit(tmp_path, [Save()], max_steps=2, val_check_interval=100)
    start = [([(k + 1, k)] * 2, [(k, k)] * 2) for k in range(2)]
    end = [([(k, k)] * 2, [(k, k)] * 2) for k in (1, 2)]
    assert saved == [start[0], end[0], start[1], end[1]]


@pytest.mark.parametrize("alone", [False, True])
def test_signals_are_lightnings_until_they_are_left_alone(alone):
    trainer = Trainer(logger=False, accelerator="cpu")
    if alone:
        leave_signals_alone(trainer)
    before = signal.getsignal(signal.SIGTERM)
    trainer._signal_connector.register_signal_handlers()
    assert (signal.getsignal(signal.SIGTERM) is before) == alone
    trainer._signal_connector.teardown()
    assert signal.getsignal(signal.SIGTERM) is before


def test_processes_are_watched_by_lightning_until_they_are_taken(monkeypatch):
    trainer = Trainer(logger=False, accelerator="cpu", devices=2, strategy="ddp")
    killed = []
    observer = _ChildProcessObserver(0, trainer.strategy.launcher.procs)
    monkeypatch.setattr(observer, "_terminate_all", lambda: killed.append(True))
    assert take_started_processes(trainer) == []
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(143)"])
    trainer.strategy.launcher.procs.append(process)
    process.wait()
    assert observer._run()
    assert killed == [True]
    assert take_started_processes(trainer) == [process]
    assert observer._run(), "it ends"
    assert killed == [True]
    assert take_started_processes(Trainer(logger=False, accelerator="cpu")) == []


def test_how_processes_start_and_what_ddp_expects_is_told_by_the_strategy():
    def trainer(strategy):
        return Trainer(logger=False, accelerator="cpu", devices=2, strategy=strategy)

    names = ("ddp", "ddp_find_unused_parameters_true", "ddp_spawn", "ddp_fork", "ddp_notebook")
    assert [starts_by(trainer(name)) for name in names] == ["popen", "popen", "spawn", "fork", "fork"]
    assert starts_by(Trainer(logger=False, accelerator="cpu")) == "popen"
    plain, named = (trainer(name) for name in names[:2])
    look_for_unused_parameters(plain)
    assert plain.strategy._ddp_kwargs == named.strategy._ddp_kwargs


def test_the_count_that_is_set_decides_which_steps_get_a_row(tmp_path):
    class Counted(Callback):
        def on_before_optimizer_step(self, trainer, *_):
            trainer.fit_loop.epoch_loop._batches_that_stepped = 100
            assert trainer.global_step < 100
            if trainer.global_step >= 4:
                count_rows_by_steps(trainer)

    fit(tmp_path, [Counted()], max_steps=12, val_check_interval=100, log_every_n_steps=3)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["6", "9", "12"]


def test_the_command_line_asks_the_replaced_method_for_the_hyperparameters_of_a_checkpoint():
    asked = []

    class Asked(CLI):
        def _parse_ckpt_path(self):
            asked.append(self.config)
            super()._parse_ckpt_path()

    Asked(TinyModel, TinyData, run=False, save_config_callback=None, args=[])
    assert len(asked) == 1
    assert "hyper_parameters" in inspect.getsource(LightningCLI._parse_ckpt_path)

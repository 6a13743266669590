"""Every part of Lightning that is used here though Lightning does not promise to keep it.

Seen in Lightning 2.6.4 and 2.6.5. Each has a test in ``tests/training/test_lightning_private.py`` that fails when it is
gone or means something else.
"""

from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningCLI


class CLI(LightningCLI):
    """Lightning's command line, to which a checkpoint's hyperparameters are nothing."""

    def _parse_ckpt_path(self) -> None:
        # Lightning would let them replace the configured ones, without a word. The module refuses a checkpoint of
        # other hyperparameters when it is loaded. No option turns this off.
        pass


def number_log_rows_by_steps(trainer: Trainer) -> None:
    """Number the rows of the log by optimizer steps.

    Lightning counts the batches that stepped by itself, and in a resumed run can be one off. No public attribute sets
    that count.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


def validation_is_due(trainer: Trainer) -> bool:
    """Tell, at the end of a training batch, whether a validation follows.

    The rules are many (``val_check_interval``, epochs, limits, the last batch), and the only function that knows them
    all is private.
    """
    loop: Any = trainer.fit_loop
    return loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)

"""Every part of Lightning that is used here though Lightning does not promise to keep it.

Seen in Lightning 2.6.4 and 2.6.5. Each has a test in ``tests/training/test_lightning_private.py`` that fails when it is
gone or means something else.
"""

import inspect
import subprocess
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher


class CLI(LightningCLI):
    """Lightning's command line, to which a checkpoint's hyperparameters are nothing."""

    def _parse_ckpt_path(self) -> None:
        # Lightning would let them replace the configured ones, without a word. The module refuses a checkpoint of
        # other hyperparameters when it is loaded. No option turns this off.
        pass


def need_no_folder() -> None:
    """Let the command line take Lightning's loggers without ``save_dir``: the run's folder is there later.

    A missing argument is refused when it is parsed, and a class without a default has no other place for one.
    """
    kind: Any
    for kind in (TensorBoardLogger, CSVLogger):
        signature = inspect.signature(kind.__init__)
        parameters = [
            each.replace(default=None) if each.name == "save_dir" else each for each in signature.parameters.values()
        ]
        kind.__init__.__signature__ = signature.replace(parameters=parameters)


def count_rows_by_steps(trainer: Trainer) -> None:
    """Set the count by which Lightning decides which steps get a row to that of optimizer steps.

    Lightning counts the batches that stepped by itself, and in a resumed run is one off. No public attribute sets that
    count.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


def uncount_batch_that_has_not_begun(checkpoint: dict[str, Any]) -> None:
    """Count in a checkpoint as ready only those batches that have begun.

    At the start of a batch, Lightning has counted it as ready. A run that is resumed from there would count it twice,
    and validate one step early.
    """
    for counts in checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"].values():
        if isinstance(counts, dict) and counts["ready"] > counts["started"]:
            counts["ready"] = counts["started"]


def leave_signals_alone(trainer: Trainer) -> None:
    """Keep Lightning from installing signal handlers.

    Its handler of SIGTERM ends a training amid a validation, and with several processes waits in the handler for the
    others, for ever if they did not get the signal in the same step. No option turns it off.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def take_started_processes(trainer: Trainer, all_of_them: bool = True) -> list[subprocess.Popen[bytes]]:
    """Take over the other processes of a training from Lightning, which has started them.

    Its observer kills every process, also the first, when one ends with another status than 0, and says nothing. It
    ends when its list is empty. No option turns it off.

    Args:
        trainer: The trainer.
        all_of_them: Whether to take none while some have not been started yet.
    """
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        return []
    if all_of_them and len(launcher.procs) < launcher.num_processes - 1:
        return []
    taken = list(launcher.procs)
    launcher.procs.clear()
    return taken


def starts_by(trainer: Trainer) -> str:
    """Return how the trainer starts its other processes: ``popen``, by running the command again, or another way.

    No public attribute tells it, and some of its names are aliases.
    """
    return str(getattr(trainer.strategy, "_start_method", None) or "popen")


def look_for_unused_parameters(trainer: Trainer) -> None:
    """Let DDP expect that a backward pass leaves some parameters without gradients.

    It is an argument of the strategy, but which strategy ``auto`` stands for is known only when the trainer is built.
    """
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._ddp_kwargs["find_unused_parameters"] = True

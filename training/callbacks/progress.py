"""Progress of the whole run, in a terminal or in a log file."""

import time
from datetime import timedelta
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

TERMINAL_SECONDS, LOG_SECONDS = 0.5, 10.0

TRAINED = "train/"
"""What the names of values begin with that a training step logs."""

MOST_VALUES = 4
"""Of a training step that are shown, in the order in which they are logged."""


class RunProgress(ProgressBar):
    """Show how many of ``trainer.max_steps`` are done, the first values of ``train/``, the speed and the time left.

    A terminal gets a bar; anything else, such as a log file, gets a line now and then. Values that are logged with
    ``prog_bar=True`` are shown too. Lightning reads those after every step, for which a GPU waits each time; all others
    are read when they are shown.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._first_step = self._last_step = 0
        self._first_time = self._refreshed = 0.0

    def enable(self) -> None:
        """Show progress."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin at the step at which the run begins or goes on."""
        self._first_step = self._last_step = trainer.global_step
        console = Console(stderr=True)
        if self._enabled and console.is_terminal:
            # The losses come last: a narrow terminal cuts off the end of the line.
            time_left = (TimeRemainingColumn(), TextColumn("left"))
            losses = TextColumn("{task.description}")
            self._bar = Progress(BarColumn(20), MofNCompleteColumn(), *time_left, losses, console=console)
            self._task = self._bar.add_task("", total=trainer.max_steps, completed=self._first_step)
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Refresh, if the last time is long enough ago: reading a loss makes the device wait."""
        step, now = trainer.global_step, time.monotonic()
        if step == self._last_step:
            return  # a batch whose gradients are accumulated
        self._last_step = step
        first, last = step == self._first_step + 1, step == trainer.max_steps
        if first:
            self._first_time = now
        if first or last or now - self._refreshed >= (LOG_SECONDS if self._bar is None else TERMINAL_SECONDS):
            self._refreshed = now
            self._show(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar as it is."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the bar as it is."""
        self._close()

    def _show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._enabled:
            return
        step, total = trainer.global_step, trainer.max_steps
        logged = [(key, float(value)) for key, value in trainer.callback_metrics.items() if key.startswith(TRAINED)]
        chosen = dict(logged[:MOST_VALUES]) | self.get_metrics(trainer, pl_module)
        values = {key.removeprefix(TRAINED): value for key, value in chosen.items() if isinstance(value, float)}
        parts = [f"{key} {value:.4g}" for key, value in values.items()]
        # The first step is left out: it warms up.
        timed = step - self._first_step - 1
        seconds = (self._refreshed - self._first_time) / max(1, timed)
        if timed:
            parts.append(f"{seconds:.3g} s/step")
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description="  ".join(parts))
            return
        if timed and total > step:
            parts.append(f"{timedelta(seconds=round(seconds * (total - step)))} left")
        print(f"step {step}/{total}", *parts, sep="  ", flush=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

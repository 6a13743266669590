"""The logger that every run has: ``metrics.csv``, which survives a resume."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytorch_lightning.loggers
from lightning_fabric.loggers.logger import rank_zero_experiment
from lightning_utilities.core.rank_zero import rank_zero_only

from training.metrics_file import MetricsFile
from training.run import Run


class MetricsLogger(pytorch_lightning.loggers.CSVLogger):
    """Lightning's CSV logger, but a resumed run goes on in the same file.

    Each call is on disk when the next step begins. Epochs and hyperparameters are left out: training streams without
    epochs, and the run folder's ``config.yaml`` holds all settings.

    Args:
        run_dir: The run's folder.
    """

    def __init__(self, run_dir: str | Path) -> None:
        super().__init__(save_dir=Path(run_dir).parent, name=None, version=Path(run_dir).name)
        self._file = MetricsFile(Run(run_dir).metrics)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The :class:`MetricsFile`."""
        return self._file

    @rank_zero_only
    def go_on_at(self, step: int) -> None:
        """Drop the rows of later steps, which a run that was killed wrote after the checkpoint that it goes on from.

        Those of ``step`` itself were there before its checkpoint. What of them is logged again is passed over.
        """
        self._file.keep_before(step + 1)

    def log_hyperparams(self, params: dict[str, Any] | Namespace | None = None) -> None:
        """Do nothing."""

    def finalize(self, status: str) -> None:
        """Write the last rows."""
        self.save()

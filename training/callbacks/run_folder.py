"""Opening a run's folder: what is written there before the first step."""

from pathlib import Path
from typing import Any

import yaml
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_modules.base import CheckpointError
from training.files import or_warn, replacing, set_aside
from training.loggers import MetricsLogger
from training.repetitions import flat
from training.run import Run
from training.wandb_logger import WandbLogger
from training.wandb_options import WandbOptions


class RunFolder(Callback):
    """Write the configuration, start Weights & Biases, and let a resumed run go on in its files.

    All of it waits until data and model are set up, so that a mistake in them leaves nothing behind. A resumed run
    keeps its ``config.yaml``; the configuration it goes on with is stored as ``config_resumed_<step>.yaml``, and what
    differs is told.

    Args:
        config: The resolved configuration, as YAML.
        wandb: What the user has set about Weights & Biases.
    """

    def __init__(self, config: str, wandb: WandbOptions | None = None) -> None:
        self.config = config
        self._wandb = wandb or WandbOptions()
        self._saved: list[int] | None = None
        self._run = Run("")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add W&B to the loggers; those that Lightning has from the beginning start before it looks at the data."""
        run = Run.of(trainer)  # in all processes, which agree on it
        if trainer.is_global_zero:
            for path in run.partials():
                path.unlink(missing_ok=True)
        # It is there already when a training has gone back.
        if not self._wandb.is_disabled and not any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
            trainer.loggers = [*trainer.loggers, WandbLogger(run.folder, self._wandb, yaml.safe_load(self.config))]

    def go_back(self, trainer: Trainer, step: int, rate: float) -> None:
        """Take another learning rate into the configuration with which the run is about to go on at an earlier step.

        It is written at once, since a kill may come before the training goes on.

        Args:
            trainer: The trainer.
            step: That step.
            rate: The setting ``lr``.
        """
        config = yaml.safe_load(self.config)
        config["model"]["init_args"]["lr"] = rate
        self.config = yaml.safe_dump(config, sort_keys=False)
        if trainer.is_global_zero:
            with or_warn():
                self._write(self._run.resumed_config(step))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note what the run goes on with; torch and Lightning pass over it in silence if it is less than there is."""
        self._saved = [checkpoint["global_step"], len(checkpoint["optimizer_states"]), len(checkpoint["lr_schedulers"])]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the configuration, and drop rows and files of steps that a resumed run makes again.

        Raises:
            CheckpointError: If the checkpoint has not restored all that it says it has, or all that there is.
        """
        run = self._run = Run.of(trainer)
        restored = [trainer.global_step, len(trainer.optimizers), len(trainer.lr_scheduler_configs)]
        if self._saved not in (None, restored):
            parts = ("step", "number of optimizers", "number of schedules")
            wrong = zip(parts, self._saved or [], restored, strict=True)
            told = [f"its {part} is {saved}, not {now}" for part, saved, now in wrong if saved != now]
            raise CheckpointError(f"the checkpoint is damaged, or of another model: {', '.join(told)}")
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, MetricsLogger):
                logger.go_on_at(trainer.global_step)
            logger.log_hyperparams(yaml.safe_load(self.config))
        for path in run.records_from(trainer.global_step):
            path.unlink(missing_ok=True)
        file = run.config
        if file.exists():
            before = run.read_config() if file.is_file() else None
            if before is None:
                aside = set_aside(file)
                rank_zero_warn(f"{file} is damaged: it is now {aside.name}, and the run goes on with a new one")
            else:
                self._tell_differences(file, before)
                file = run.resumed_config(trainer.global_step)
        self._write(file)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Make the folder anew if somebody has deleted it: what the training writes shall be a run."""
        file = self._run.config
        if trainer.is_global_zero and not file.is_file():
            rank_zero_warn(f"{file} is gone; it is made anew at step {trainer.global_step}, and the training goes on")
            with or_warn():
                self._write(file)

    def _write(self, file: Path) -> None:
        with replacing(file) as partial:
            partial.write_text(self.config)

    def _tell_differences(self, first: Path, config: dict[str, Any]) -> None:
        before, now = flat(config), flat(yaml.safe_load(self.config))
        changes = [
            f"{key} {before.get(key)!r} -> {now.get(key)!r}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and key != "ckpt_path"
        ]
        if changes:
            rank_zero_info(f"going on with other settings than those of {first}: {', '.join(changes)}")

"""Opening a run's folder: what is written there before the first step."""

from pathlib import Path

import pytorch_lightning.loggers
import yaml
from lightning_utilities.core.rank_zero import rank_zero_info
from pytorch_lightning import Callback, LightningModule, Trainer

from training.files import replacing
from training.loggers import CSVLogger, WandbLogger
from training.run import Run


class RunFolder(Callback):
    """Write the configuration, start Weights & Biases, and let a resumed run go on in its files.

    All of it waits until data and model are set up, so that a mistake in them leaves nothing behind. A resumed run
    keeps its ``config.yaml``; the configuration it goes on with is stored as ``config_resumed_<step>.yaml``, and what
    differs is told.

    Args:
        config: The resolved configuration, as YAML.
    """

    def __init__(self, config: str) -> None:
        self.config = config

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add W&B to the loggers; those that Lightning has from the beginning start before it looks at the data."""
        if trainer.is_global_zero:
            for path in Run.of(trainer).partials():
                path.unlink(missing_ok=True)
        # Two runs of W&B in one process would end each other.
        if not any(isinstance(logger, pytorch_lightning.loggers.WandbLogger) for logger in trainer.loggers):
            trainer.loggers = [*trainer.loggers, WandbLogger(trainer.log_dir or "")]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the configuration, and drop rows and files of steps that a resumed run makes again."""
        run = Run.of(trainer)
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.keep_before(trainer.global_step)
            logger.log_hyperparams(yaml.safe_load(self.config))
        for path in run.records_from(trainer.global_step):
            path.unlink(missing_ok=True)
        file = run.config
        if file.is_file():
            self._tell_differences(file)
            file = run.resumed_config(trainer.global_step)
        with replacing(file) as partial:
            partial.write_text(self.config)

    def _tell_differences(self, first: Path) -> None:
        before, now = (flat(yaml.safe_load(text)) for text in (first.read_text(), self.config))
        changes = [
            f"{key} {before.get(key)!r} -> {now.get(key)!r}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and key != "ckpt_path"
        ]
        if changes:
            rank_zero_info(f"going on with other settings than those of {first}: {', '.join(changes)}")


def flat(config: object, prefix: str = "") -> dict[str, object]:
    """Name every setting of a nested configuration by its dotted path."""
    if not isinstance(config, dict):
        return {prefix: config}
    items: dict[str, object] = {}
    for key, value in config.items():
        items |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return items

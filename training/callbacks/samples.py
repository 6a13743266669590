"""Pictures of what the model makes while it trains."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.model_helpers import is_overridden
from torchvision.transforms.functional import to_pil_image

from lightning_modules.base import TrainingModule
from norms.errors import check_range
from training.files import or_warn, replacing
from training.finite import has_finite_weights
from training.fsdp import whole_networks
from training.run import Run
from training.wandb_logger import WandbLogger


class SampleImages(Callback):
    """Save the module's :meth:`~lightning_modules.base.TrainingModule.sample_grid`, if it makes one.

    The picture after s optimizer steps goes to ``samples/step_0000500.png`` in the run folder and to Weights & Biases:
    at the start, every few steps and at the end.

    Args:
        every_n_steps: Steps between two pictures.
    """

    def __init__(self, every_n_steps: int = 500) -> None:
        check_range("samples.every_n_steps", every_n_steps, at_least=1)
        self.every_n_steps = every_n_steps
        self._run = Run("")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the run; here, since processes agree on its folder, and each must ask."""
        self._run = Run.of(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save a picture every few steps."""
        if trainer.global_step % self.every_n_steps == 0:
            self._save(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last picture."""
        self._save(trainer, pl_module)

    def _save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, TrainingModule) or not is_overridden("sample_grid", pl_module, TrainingModule):
            return
        with whole_networks(trainer):
            if trainer.is_global_zero and has_finite_weights(pl_module):  # or else the guard ends the training
                self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        step = trainer.global_step
        picture = to_pil_image((pl_module.sample_grid().clamp(0, 1) * 255).round().byte().cpu())
        with or_warn(), replacing(self._run.sample(step)) as partial:
            picture.save(partial, format="PNG")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("samples", [picture], step, caption=[f"step {step}: {pl_module.sample_caption}"])

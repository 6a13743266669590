"""A small image classifier: to study normalization, and to train the bundled perceptual loss."""

import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.functional.classification import multiclass_accuracy

from lightning_modules.base import HYPER_PARAMETERS, TrainingModule, class_path, plain_settings
from lightning_modules.networks.feature_net import FeatureNet, imagenet_normalize
from norms.errors import SettingError, check_range


class Classifier(TrainingModule):
    """Classify by a :class:`FeatureNet`, the mean over all pixels, and one linear layer, trained with cross entropy.

    Adam's learning rate follows :func:`warm_up_then_cosine` over ``trainer.max_steps`` steps.

    Args:
        num_classes: Number of labels.
        norm: As :func:`norms.build` takes it.
        widths: Channels of each stage of the feature network.
        depths: Number of layers of each stage.
        lr: Highest learning rate.
        weight_decay: L2 penalty on the weights of convolutions and of the linear layer.
        label_smoothing: Share of the target probability that all classes get alike, from 0 to 1.
        channels_last: See :class:`StyleTransfer`.
        compile: Likewise.
        seed: Key of everything random in the module.
    """

    def __init__(
        self,
        num_classes: int = 10,
        norm: str | Callable[..., nn.Module] = "batch",
        widths: Sequence[int] = (32, 64, 128, 256),
        depths: Sequence[int] = (2, 2, 2, 1),
        lr: float = 5e-3,
        weight_decay: float = 1e-4,
        label_smoothing: float = 0.1,
        channels_last: bool = False,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        norm = class_path(norm)  # checkpoints hold plain types alone
        check_range("num_classes", num_classes, at_least=1)
        check_range("lr", lr, at_least=0, below=math.inf)
        check_range("weight_decay", weight_decay, at_least=0, below=math.inf)
        check_range("label_smoothing", label_smoothing, at_least=0, at_most=1)
        self.save_hyperparameters()
        self.num_classes, self.norm = num_classes, norm
        self.lr, self.weight_decay, self.label_smoothing = lr, weight_decay, label_smoothing
        self.feature_net = FeatureNet(widths, depths, norm)
        self.head = nn.Linear(widths[-1], num_classes)
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.image_shape: tuple[int, ...] | None = None
        """Channels, height and width of the images that it was trained on, once it was; part of a checkpoint."""

    @property
    def networks(self) -> list[nn.Module]:
        """The feature network."""
        return [self.feature_net]

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits (B, num_classes) of RGB or gray images (B, 3 or 1, H, W) in [0, 1]."""
        return self.head(self.features(image))

    def features(self, image: Tensor) -> Tensor:
        """Compute what the last layer sees of such images: the mean of each activation, (B, widths[-1]), at least 0."""
        return self.feature_net(imagenet_normalize(image)).mean(dim=(2, 3))

    def check_data(self, data: Any) -> None:
        """Refuse images without labels, and more labels than the classifier knows.

        Raises:
            SettingError: If the data module has such.
        """
        classes = getattr(data, "num_classes", self.num_classes)
        if classes == 0:
            raise SettingError(
                f"a classifier needs labels, and {type(data).__name__} has none: take data.BundledDigits, "
                "data.CIFAR10, data.MNIST or data.FashionMNIST"
            )
        if classes > self.num_classes:
            raise SettingError(
                f"{type(data).__name__} has {classes} classes, but the model knows {self.num_classes}: "
                f"set model.init_args.num_classes: {classes}"
            )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one labelled batch."""
        label, logits = batch["label"], self(batch["image"])
        self.image_shape = tuple(batch["image"].shape[1:])
        loss = F.cross_entropy(logits, label, label_smoothing=self.label_smoothing)
        self.log("train/loss", loss, prog_bar=True)
        accuracy = multiclass_accuracy(logits, label, self.num_classes, average="micro")
        self.log("train/accuracy", accuracy, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Score one held-out batch; its loss is without label smoothing."""
        label, logits = batch["label"], self(batch["image"])
        self.val_accuracy(logits, label)
        self.log("val/loss", F.cross_entropy(logits, label), sync_dist=True, batch_size=len(label))
        self.log("val/accuracy", self.val_accuracy, prog_bar=True)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the logits of a batch, shape (B, num_classes)."""
        return self(batch["image"])

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build Adam and its schedule."""
        total = self.trainer.max_steps
        check_range("trainer.max_steps, over which the learning rate falls,", total, at_least=1)
        optimizer = self.adam(self, self.lr, weight_decay=self.weight_decay)
        schedule = LambdaLR(optimizer, lambda step: warm_up_then_cosine(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record, besides the module, which images it was trained on."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["normlab"]["image_shape"] = self.image_shape and list(self.image_shape)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the checkpoint as any module does, and take over which images it was trained on.

        Raises:
            SettingError: If it does not belong to this module, or what it says of the images means nothing.
        """
        super().on_load_checkpoint(checkpoint)
        shape = checkpoint["normlab"].get("image_shape")
        if shape is not None:
            if not isinstance(shape, list) or len(shape) != 3 or not all(isinstance(side, int) for side in shape):
                raise SettingError(f"the checkpoint's image_shape is no list of three numbers: {shape!r}")
            self.image_shape = tuple(shape)

    def shared_settings(self) -> dict[str, Any]:
        """Return the hyperparameters for a file to hand on."""
        return plain_settings({HYPER_PARAMETERS: self.hparams})

    def next_command(self, run_dir: Path) -> str | None:
        """Return the command that makes a feature network of the run, which batch norm alone allows."""
        if self.norm != "batch":
            return None
        return f"python -m training.export_features {shlex.quote(str(run_dir))} features.safetensors"


def warm_up_then_cosine(step: int, total: int, warm_up: float = 0.2) -> float:
    """Return the share of the highest learning rate that a step uses: a linear rise, then a half cosine down to 0.

    Args:
        step: Number of the step, from 0.
        total: Number of steps of the run.
        warm_up: Share of the run that the rise takes.

    Returns:
        Between 0 and 1.
    """
    rise = warm_up * total
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / (total - rise))))

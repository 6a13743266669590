"""A small image classifier: to study normalization, and to train the bundled perceptual loss."""

import inspect
import math
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.functional.classification import multiclass_accuracy

import norms
from data.stream import seed_for
from lightning_modules.base import HYPER_PARAMETERS, SCHEDULES, TrainingModule, class_path, plain_settings
from lightning_modules.networks.classifier_networks import ACTIVATIONS, NETWORKS, build_network
from lightning_modules.networks.feature_net import FeatureNet, ImageNetNormalize
from norms.errors import SettingError, check_range, unknown
from norms.imports import resolve_callable
from norms.registry import with_options

PARAMETRIZATIONS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": norms.weight_norm,
    "spectral_norm": norms.spectral_norm,
}
"""Of the weights of all convolutions and linear layers, by name."""

OPTIMIZERS = ("adam", "sgd")

RISING = "warm_up_cosine"
"""The schedule :func:`warm_up_then_cosine`."""

_RANDOM = 7
"""What tells the random numbers of layers, such as dropout's, from those of others."""


class Classifier(TrainingModule):
    """Classify by a network, the mean over all pixels, and one linear layer, trained with cross entropy.

    Args:
        num_classes: Number of labels.
        network: ``feature_net``, which is like VGG, ``resnet``, ``mlp`` or ``lenet``, see
            :data:`~lightning_modules.networks.classifier_networks.NETWORKS`; or the class path of another.
        widths: Channels or units of each stage of the network; by default its own.
        depths: Number of layers, or residual blocks, of each stage, where the network has stages.
        network_options: Further arguments of the network, such as ``input_shape``.
        norm: As :func:`norms.build` takes it.
        norm_options: Further arguments of that layer.
        activation: ``relu``, ``leaky_relu``, ``elu``, ``gelu``, ``silu``, ``sigmoid`` or ``tanh``; or the class path of
            a module.
        parametrization: ``weight_norm`` or ``spectral_norm`` of all convolutions and linear layers; null for neither.
        data_init: Whether the weight-normalized layers are initialized by the first batch, see
            :func:`norms.initialize_weight_norm_`.
        weight_scale: What all initial weights of convolutions and linear layers are multiplied by.
        dropout: Share of what the last layer sees that is set to 0 while training, at least 0 and below 1.
        optimizer: ``adam`` or ``sgd``.
        momentum: Of ``sgd``.
        lr: Highest learning rate.
        schedule: ``warm_up_cosine`` for :func:`warm_up_then_cosine` over ``trainer.max_steps`` steps; ``constant``,
            ``linear``, ``cosine``; or ``steps``, which divides the rate by 10 after a half and again after three
            quarters of them.
        rho_lr_multiplier: The learning rate of Batch-Instance Normalization's rho, as a multiple of ``lr``.
        weight_decay: L2 penalty on the weights of convolutions and of linear layers.
        label_smoothing: Share of the target probability that all classes get alike, from 0 to 1.
        channels_last: See :class:`StyleTransfer`.
        compile: Likewise.
        seed: Key of everything random in the module.
    """

    def __init__(
        self,
        num_classes: int = 10,
        network: str | Callable[..., nn.Module] = "feature_net",
        widths: Sequence[int] | None = None,
        depths: Sequence[int] | None = None,
        network_options: dict[str, Any] | None = None,
        norm: str | Callable[..., nn.Module] = "batch",
        norm_options: dict[str, Any] | None = None,
        activation: str | Callable[..., nn.Module] = "relu",
        parametrization: str | None = None,
        data_init: bool = False,
        weight_scale: float = 1.0,
        dropout: float = 0.0,
        optimizer: str = "adam",
        momentum: float = 0.9,
        lr: float = 5e-3,
        schedule: str = RISING,
        rho_lr_multiplier: float = 10.0,
        weight_decay: float = 1e-4,
        label_smoothing: float = 0.1,
        channels_last: bool = False,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        network, norm, activation = map(class_path, (network, norm, activation))  # checkpoints hold plain types alone
        widths, depths = _sizes(network, widths, depths)
        check_range("num_classes", num_classes, at_least=2)
        for name, value in (("lr", lr), ("weight_decay", weight_decay), ("rho_lr_multiplier", rho_lr_multiplier)):
            check_range(name, value, at_least=0, below=math.inf)
        check_range("label_smoothing", label_smoothing, at_least=0, at_most=1)
        check_range("momentum", momentum, at_least=0, below=1)
        check_range("dropout", dropout, at_least=0, below=1)
        check_range("weight_scale", weight_scale, above=0, below=math.inf)
        _check_name("optimizer", optimizer, OPTIMIZERS)
        _check_name("schedule", schedule, (RISING, *SCHEDULES))
        if parametrization is not None:
            _check_name("parametrization", parametrization, PARAMETRIZATIONS)
        if data_init and parametrization != "weight_norm":
            raise SettingError("data_init is of weight-normalized layers: set parametrization: weight_norm")
        for name in ("widths", "depths", "norm", "activation"):
            if name in (network_options or {}):
                raise SettingError(f"network_options.{name}: give it as the option {name} of the classifier")
        self.save_hyperparameters()
        self.num_classes, self.norm = num_classes, norm
        self.lr, self.weight_decay, self.label_smoothing = lr, weight_decay, label_smoothing
        self.normalize = ImageNetNormalize()
        self.feature_net = build_network(
            network,
            widths=widths,
            depths=depths,
            norm=with_options(norm, norm_options) if norm_options else norm,
            activation=resolve_callable("activation", activation, ACTIVATIONS),
            **(network_options or {}),
        )
        self.head = nn.Linear(self.feature_net.width, num_classes)  # type: ignore[arg-type]
        self._prepare_weights(parametrization, weight_scale)
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.image_shape: tuple[int, ...] | None = None
        """Channels, height and width of the images that it was trained on, once it was; part of a checkpoint."""

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Channels, height and width of the images that the network takes, if those are fixed."""
        return getattr(self.feature_net, "input_shape", None)

    @property
    def networks(self) -> list[nn.Module]:
        """The feature network."""
        return [self.feature_net]

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits (B, num_classes) of RGB or gray images (B, 3 or 1, H, W) in [0, 1]."""
        seen = self.features(image)
        return self.head(F.dropout(seen, self.hparams["dropout"], self.training))

    def features(self, image: Tensor) -> Tensor:
        """Compute what the last layer sees of such images: the mean of each activation, (B, widths[-1])."""
        shape = self.input_shape
        gray = shape is not None and shape[0] == 1
        seen = self.feature_net(image if gray else self.normalize(image))
        return seen.mean(dim=(2, 3)) if seen.ndim == 4 else seen

    def _prepare_weights(self, parametrization: str | None, scale: float) -> None:
        for layer in [each for each in self.modules() if isinstance(each, nn.Conv2d | nn.Linear)]:
            with torch.no_grad():
                layer.weight.mul_(scale)
            if parametrization is not None:
                PARAMETRIZATIONS[parametrization](layer)

    def check_data(self, data: Any) -> None:
        """Refuse images without labels, more labels than the classifier knows, and images of another shape.

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
        if self.input_shape is not None and hasattr(data, "take_shape"):
            data.take_shape(*self.input_shape[:2])
            shape = (data.channels, data.image_size, data.image_size)
            if shape != self.input_shape:
                raise SettingError(
                    f"the network is for images of {_times(self.input_shape)} (channels, height, width), and those of "
                    f"{type(data).__name__} are {_times(shape)}: set model.init_args.network_options.input_shape: "
                    f"{list(shape)}"
                )

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Initialize the weights by the first batch, if that is asked for."""
        if self.hparams["data_init"] and self.global_step == batch_idx == 0:
            norms.initialize_weight_norm_(self, batch["image"])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one labelled batch."""
        label = batch["label"]
        # So that what layers draw, such as dropout, depends on seed, rank and step alone.
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed_for(self.seed, self.global_rank, self.global_step, _RANDOM))
            logits = self(batch["image"])
        self.image_shape = tuple(batch["image"].shape[1:])
        loss = F.cross_entropy(logits, label, label_smoothing=self.label_smoothing)
        accuracy = multiclass_accuracy(logits, label, self.num_classes, average="micro")
        self.log_dict({"train/loss": loss, "train/accuracy": accuracy})
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Score one held-out batch; its loss is without label smoothing."""
        label, logits = batch["label"], self(batch["image"])
        self.val_accuracy(logits, label)
        self.log("val/loss", F.cross_entropy(logits, label), batch_size=len(label))
        self.log("val/accuracy", self.val_accuracy)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the logits of a batch, shape (B, num_classes)."""
        return self(batch["image"])

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build the optimizer and its schedule."""
        total, multipliers = self.trainer.max_steps, {"rho": self.hparams["rho_lr_multiplier"]}
        check_range("trainer.max_steps, over which the learning rate falls,", total, at_least=1)
        if self.hparams["optimizer"] == "sgd":
            optimizer: Optimizer = self.sgd(
                self, self.lr, self.hparams["momentum"], self.weight_decay, lr_multipliers=multipliers
            )
        else:
            optimizer = self.adam(self, self.lr, weight_decay=self.weight_decay, lr_multipliers=multipliers)
        name = self.hparams["schedule"]
        share = warm_up_then_cosine if name == RISING else lambda step, total: SCHEDULES[name](step / total)
        schedule = LambdaLR(optimizer, lambda step: share(step, total))
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
        exportable = isinstance(self.feature_net, FeatureNet) and self.hparams["activation"] == "relu"
        if self.norm != "batch" or not exportable:
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


def _sizes(
    network: str, widths: Sequence[int] | None, depths: Sequence[int] | None
) -> tuple[list[int] | None, list[int] | None]:
    """Fill in a network's own widths and depths, so that checkpoints say what they are."""
    parameters = inspect.signature(resolve_callable("network", network, NETWORKS)).parameters
    given = {"widths": widths, "depths": depths}
    for name, value in given.items():
        if value is None and name in parameters and parameters[name].default is not inspect.Parameter.empty:
            given[name] = parameters[name].default
    first, second = (None if value is None else list(value) for value in given.values())
    return first, second


def _check_name(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise unknown(what, name, dict.fromkeys(known))


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))

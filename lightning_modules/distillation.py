"""Teaching a small feature network to see what a large one sees."""

import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from data.stream import generator
from lightning_modules.base import TrainingModule, class_path
from lightning_modules.classifier import warm_up_then_cosine
from lightning_modules.losses.perceptual import gram_matrix, squared_error
from lightning_modules.networks.feature_net import FeatureNet, ImageNetNormalize
from lightning_modules.networks.loss_network import LossNetwork
from norms.errors import SettingError, check_range

TAUGHT = {"relu1": 64, "fire3": 128, "fire5": 256}
"""Layers of SqueezeNet 1.1 with their channels; the student's second, third and fourth stages end at their strides."""


class Distillation(TrainingModule):
    r"""Train a :class:`FeatureNet` to have the activations of SqueezeNet 1.1.

    .. math::
        L = \frac{1}{3} \sum_k \mathrm{mean}\left((f_k(x) - \hat t_k(x))^2\right)
            + w \, \frac{\lVert G(f_k(x)) - G(\hat t_k(x)) \rVert^2}{\lVert G(\hat t_k(x)) \rVert^2}

    where :math:`f_k` are the activations at the end of the student's stages 2 to 4, :math:`\hat t_k` those of the
    teacher's relu1, fire3 and fire5, divided by their root mean square and resampled onto the student's pixels, and G
    are Gram matrices. Both terms are relative to the teacher: 1 for a student that answers with zeros, 0 for a perfect
    one.

    Images are varied beyond photographs (exchanged colors, noise fine and coarse), since a perceptual loss also meets
    the unfinished pictures of the network that it trains. Adam's learning rate follows :func:`warm_up_then_cosine`.

    Args:
        weights: File with the teacher's weights; by default those that torchvision downloads.
        norm: As :func:`norms.build` takes it; only ``batch`` can be exported.
        first_width: Channels of the student's first stage; the others have the teacher's.
        depths: Number of layers of each of the four stages.
        gram_weight: Weight w of the Gram matrices, at least 0.
        lr: Highest learning rate.
        seed: Key of everything random in the module.

    Raises:
        SettingError: If the student has not four stages.

    Source:
        Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, section 2.2, here without a regressor.
    """

    teacher: LossNetwork
    """Only there in training and validation."""

    scales: Tensor
    """Root mean square of the teacher's activations, shape (3,), from the first batch; 0 before it."""

    def __init__(
        self,
        weights: str | None = None,
        norm: str | Callable[..., nn.Module] = "batch",
        first_width: int = 32,
        depths: Sequence[int] = (2, 2, 2, 1),
        gram_weight: float = 0.3,
        lr: float = 5e-3,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        if len(depths) != 1 + len(TAUGHT):
            raise SettingError(f"the student needs four stages, got depths {list(depths)}")
        norm = class_path(norm)  # checkpoints hold plain types alone
        check_range("gram_weight", gram_weight, at_least=0, below=math.inf)
        check_range("lr", lr, at_least=0, below=math.inf)
        self.save_hyperparameters()
        self.weights, self.norm, self.gram_weight, self.lr = weights, norm, gram_weight, lr
        self.normalize = ImageNetNormalize()
        self.feature_net = FeatureNet((first_width, *TAUGHT.values()), depths, norm)
        self.layers = [f"relu{stage}_{depth}" for stage, depth in enumerate(depths, start=1)][1:]
        self.register_buffer("scales", torch.zeros(len(TAUGHT)))

    def prepare_data(self) -> None:
        """Try the teacher's weights, before anything of the run is written."""
        self._load_teacher()

    def setup(self, stage: str) -> None:
        """Load the teacher."""
        self.teacher = self._load_teacher().to(self.device)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss on a batch of varied images."""
        return self._compare(self._varied(batch["image"]), "train")

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Score a batch of held-out images as they are."""
        self._compare(batch["image"], "val")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build Adam and its schedule."""
        optimizer = self.adam(self.feature_net, self.lr)
        schedule = LambdaLR(optimizer, lambda step: warm_up_then_cosine(step, self.trainer.max_steps, warm_up=0.1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def next_command(self, run_dir: Path) -> str:
        """Return the command that makes a feature network of the run."""
        return f"python -m training.export_features {shlex.quote(str(run_dir))} features.safetensors"

    def _load_teacher(self) -> LossNetwork:
        return LossNetwork("squeezenet1_1", TAUGHT, self.weights)

    def _compare(self, image: Tensor, stage: str) -> Tensor:
        with torch.no_grad():
            taught = list(self.teacher(image, TAUGHT).values())
            measured = torch.stack([target.square().mean().sqrt() for target in taught])
            # Measured each time, since a GPU would be waited for to learn whether it has been.
            self.scales.copy_(torch.where(self.scales.any(), self.scales, measured))
        learned = self.feature_net.features(self.normalize(image), self.layers).values()
        activations, grams = [], []
        for exponent, (features, target, scale) in enumerate(zip(learned, taught, self.scales, strict=True), start=1):
            target = on_student_pixels(target / scale, features, stride=2**exponent)
            activations.append(squared_error(features, target))
            gram = gram_matrix(target)
            grams.append(squared_error(gram_matrix(features), gram) / gram.square().mean())
        losses = {"activations": torch.stack(activations).mean(), "grams": torch.stack(grams).mean()}
        losses["loss"] = losses["activations"] + self.gram_weight * losses["grams"]
        metrics = {f"{stage}/{name}": value for name, value in losses.items()}
        self.log_dict(metrics, batch_size=len(image))
        return losses["loss"]

    def _varied(self, image: Tensor) -> Tensor:
        keyed = generator(self.seed, self.global_rank, self.global_step, device=image.device)
        count, channels, height, width = image.shape

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=keyed, device=image.device)

        def noise(*shape: int) -> Tensor:
            return torch.randn(shape, generator=keyed, device=image.device)

        original = torch.arange(channels, device=image.device).expand(count, channels)
        order = torch.where(uniform(count, 1) < 0.3, uniform(count, channels).argsort(1), original)
        image = image.gather(1, order[:, :, None, None].expand_as(image))
        fine = noise(count, channels, height, width)
        coarse = F.interpolate(noise(count, channels, height // 4, width // 4), (height, width), mode="bilinear")
        # Cubed, most amplitudes are small.
        amplitudes = 0.25 * uniform(2, count, 1, 1, 1) ** 3
        return (image + amplitudes[0] * fine + amplitudes[1] * coarse).clamp(0, 1)


def on_student_pixels(target: Tensor, features: Tensor, stride: int) -> Tensor:
    """Resample a map of SqueezeNet onto the pixels of a map of :class:`FeatureNet`, bilinearly.

    SqueezeNet does not pad, so its cell p lies at image coordinate ``stride * p + stride - 1``; FeatureNet does, and
    its cell q lies at ``stride * q + (stride - 1) / 2``.

    Args:
        target: The teacher's map, shape (B, C, H, W).
        features: A map of the student, shape (B, ?, H', W').
        stride: Pixels of the image between two cells, the same for both.

    Returns:
        Shape (B, C, H', W'); beyond the border the nearest cell counts.
    """
    axes = []
    for length, cells in zip(features.shape[2:], target.shape[2:], strict=True):
        position = torch.arange(length, device=target.device) - (1 - 1 / stride) / 2
        axes.append((position + 0.5) / cells * 2 - 1)
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1).to(target.dtype)
    return F.grid_sample(target, grid.expand(len(target), -1, -1, -1), padding_mode="border", align_corners=False)

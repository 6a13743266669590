"""Numbers that say how good generated images are, each kept with what it is of."""

import json
from typing import Any, Literal

import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from lightning_modules.generation import SAMPLING_BATCH, STATISTICS_BATCHES, ImageGenerator
from lightning_modules.metrics.extractors import Extractor
from lightning_modules.metrics.generated import generated_features
from lightning_modules.metrics.scores import SCORES, compute_scores, estimators, fewest_images
from norms.errors import SettingError, check_range, unknown
from training.features import build_extractor, real_features
from training.files import or_warn, replacing
from training.finite import has_finite_weights
from training.fsdp import whole_networks
from training.run import Run

MOST_IMAGES = 10**7
"""More would not fit into memory."""

CHEAP = ("fd", "kid")
"""What a validation computes by default."""


class GenerationMetrics(Callback):
    """Compare generated images with real ones in the features of a network, in validations and by ``train.py test``.

    The numbers are those of :mod:`lightning_modules.metrics.scores`: ``fd`` (Fréchet distance), ``kid`` (kernel
    distance), ``is`` (Inception Score), ``precision``, ``recall``, ``density`` and ``coverage``, all from one pass of
    real and one of generated images. In Inception's features the first is called ``fid``. In others all have the name
    of the network, as ``fd_garments``, and none of them is a FID.

    A number means little without its protocol. Both are in ``metrics/step_0000500.json`` in the run folder, and in
    ``metrics/test_step_0001500.json`` of a test. Generated images are drawn by the averaged generator from the same
    latent vectors each time, classes in turn, and are rounded to 8 bits.

    Args:
        features: ``garments`` or ``digits`` (small classifiers of gray images that come with normlab), ``inception``
            (torch-fidelity's, for published FID), or a run folder of a ``Classifier``; null for no numbers.
        names: Which numbers; null for ``fd`` and ``kid`` in a validation and all of them in a test.
        val_images: Generated images in a validation, and at most as many real ones.
        images: Likewise in a test.
        split: Whether real images are those for training (``train``) or for validation (``val``).
        every_n_steps: Compute in those validations alone that come at a multiple of so many steps; null for each.

    Raises:
        SettingError: If a number is unknown or outside its range.
    """

    def __init__(
        self,
        features: str | None = None,
        names: list[str] | None = None,
        val_images: int = 2000,
        images: int = 10_000,
        split: Literal["train", "val"] = "train",
        every_n_steps: int | None = None,
    ) -> None:
        if names == []:
            raise SettingError("metrics.names holds no number: name some, or set it to null")
        for name in names or ():
            if name not in SCORES and not (name == "fid" and features == "inception"):
                raise unknown("metric in metrics.names", name, SCORES)
        check_range("metrics.val_images", val_images, at_least=1, at_most=MOST_IMAGES)
        check_range("metrics.images", images, at_least=1, at_most=MOST_IMAGES)
        check_range("metrics.every_n_steps", every_n_steps, at_least=1)
        self.features, self.split, self.every_n_steps = features, split, every_n_steps
        self.names = names and ["fd" if name == "fid" else name for name in names]
        self.counts = {"val": val_images, "test": images}
        self.run = Run("")
        """The run that is scored: the one that is trained, unless this is set."""
        self.logged: list[str] = []
        """What validations log."""
        self._chosen: list[str] = []
        self._extractor: Extractor | None = None
        self._real: tuple[Tensor, str] | None = None
        self._data: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the network, and refuse what cannot be computed, before anything is trained.

        Raises:
            SettingError: If model, data, images or network do not fit the numbers.
        """
        if self.features is not None:
            self._agree(trainer, pl_module, stage)
        if stage == "fit" and isinstance(pl_module, ImageGenerator):
            self._check_monitors(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the generator, if it is time."""
        fitting = trainer.state.fn is TrainerFn.FITTING
        if not (fitting and self.every_n_steps and trainer.global_step % self.every_n_steps):
            self._score(trainer, pl_module, "val", "" if fitting else "validate")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the generator."""
        self._score(trainer, pl_module, "test", "test")

    def _agree(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Prepare in the first process, which computes alone; the others must not wait for it in vain."""
        if stage == "fit":
            self.run = Run.of(trainer)  # in all processes, which agree on it
        fault: str | None = None
        if trainer.is_global_zero:
            try:
                self._prepare(trainer, module, "test" if stage == "test" else "val")
            except SettingError as error:
                fault = str(error)
        fault, self.logged = trainer.strategy.broadcast((fault, self.logged))
        if fault is not None:
            raise SettingError(fault)

    def _check_monitors(self, trainer: Trainer) -> None:
        """Refuse to wait for a number that no validation will compute."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            monitor = str(getattr(callback, "monitor", None))
            stage, _, score = monitor.partition("/")
            if stage != "val" or score.partition("_")[0] not in (*SCORES, "fid") or monitor in self.logged:
                continue
            where = "checkpoint.monitor" if isinstance(callback, Checkpoint) else "trainer.callbacks"
            if not self.logged:
                raise SettingError(f"{where}: {monitor} needs metrics.features: set them, or no monitor")
            raise unknown(f"metric in {where}", monitor, self.logged)

    def _prepare(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(module, ImageGenerator):
            raise SettingError(
                f"metrics.features needs a model that draws images from noise, as lightning_modules.GAN, and "
                f"{type(module).__name__} does not: set it to null"
            )
        if not hasattr(data, f"{self.split}_images"):
            raise SettingError(f"metrics.split: {type(data).__name__} has no {self.split}_images()")
        self._data, self._real = getattr(data, f"{self.split}_images")(), None
        assert self.features is not None
        self._extractor = build_extractor(self.features)
        self._extractor.check_images(module.image_shape)
        self._chosen = self._with_enough_images(self._extractor, stage)
        self.logged = [f"{stage}/{self._extractor.score_name(name)}" for name in self._chosen]

    def _with_enough_images(self, extractor: Extractor, stage: str) -> list[str]:
        """Return the numbers to compute: those that are asked for, or else those for which there are enough images."""
        option = "metrics.images" if stage == "test" else "metrics.val_images"
        names = self.names or (list(SCORES) if stage == "test" else list(CHEAP))
        count = min(self.counts[stage], len(self._data))
        few = [name for name in names if count < fewest_images(name, extractor.dimension)]
        if not few:
            return names
        needed = max(fewest_images(name, extractor.dimension) for name in few)
        wrong = (
            f"{', '.join(extractor.score_name(name) for name in few)} of {count:,} images means nothing, with "
            f"{extractor.dimension:,} features: it needs {needed:,} ({option} is {self.counts[stage]:,}, and of real "
            f"ones there are {len(self._data):,})"
        )
        if self.names or len(few) == len(names):
            advice = "kid needs 2 of each" if "kid" in few else "take kid, for which few will do"
            raise SettingError(f"{wrong}; {advice}")
        rank_zero_info(f"{wrong}, so that it is left out")
        return [name for name in names if name not in few]

    def _score(self, trainer: Trainer, module: LightningModule, stage: str, kept_as: str) -> None:
        if self.features is None or trainer.sanity_checking:
            return
        scores: dict[str, float] | None = None
        with whole_networks(trainer):
            if trainer.is_global_zero and has_finite_weights(module):  # or else the guard ends the training
                assert isinstance(module, ImageGenerator)
                scores = self._compute(trainer, module, stage, kept_as)
        scores = trainer.strategy.broadcast(scores)
        if scores is not None:
            module.log_dict({f"{stage}/{name}": value for name, value in scores.items()})

    def _compute(self, trainer: Trainer, module: ImageGenerator, stage: str, kept_as: str) -> dict[str, float]:
        assert self._extractor is not None
        extractor = self._extractor.to(module.device)
        # Lightning validates in inference mode, whose tensors the generator's copy could not be used with later.
        with torch.inference_mode(False), torch.no_grad():
            if first := self._real is None:
                self._real = real_features(self._data, self.counts[stage], extractor)
            fake, logits = generated_features(module, extractor, self.counts[stage])
        assert self._real is not None
        real, content = self._real
        if fake.device.type != "cuda":  # others know no float64
            real, fake, logits = real.cpu(), fake.cpu(), logits.cpu()
        found = compute_scores(self._chosen, real, fake, logits)
        scores = {extractor.score_name(name): value for name, value in found.items()}
        # Lightning restores the step of a training alone.
        step = trainer.global_step if not kept_as else int(self.run.state.get("global_step", 0))
        protocol = {
            "step": step,
            "generated_images": len(fake),
            "real_images": len(real),
            "real_split": self.split,
            "real_data": type(trainer.datamodule).__name__,  # type: ignore[attr-defined]
            "real_hash": content,
            "extractor": extractor.name,
            "extractor_hash": extractor.digest(),
            "resize": extractor.resize(module.image_shape),
            "averaged_weights": bool(module.hparams.get("ema_half_life", True)),
            "norm_statistics": f"estimated anew from {SAMPLING_BATCH * STATISTICS_BATCHES} generated images",
            "labels": f"{module.num_classes} classes in turn" if module.num_classes else "none",
            "seed": module.seed,
            "estimators": estimators(self._chosen, len(real), len(fake)),
        }
        file = self.run.score(step, kept_as)
        with or_warn(), replacing(file) as partial:
            partial.write_text(json.dumps({"scores": scores, "protocol": protocol}, indent=2) + "\n")
        of = f"{len(real):,} real images ({self.split}) and {len(fake):,} generated ones, features of {extractor.name}"
        if kept_as:
            print(f"wrote {file}: {', '.join(f'{name} {value:.5g}' for name, value in scores.items())} ({of})")
        elif first:
            rank_zero_info(f"{', '.join(scores)} in {self.run.scores}: {of}")
        return scores

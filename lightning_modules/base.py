"""Base of all trained modules: keyed noise, optimizer, guarded checkpoints."""

import inspect
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import normlab
import norms
from data.stream import generator
from lightning_modules.processes import SharedModule
from norms.errors import SettingError, check_range
from norms.imports import resolve

AnyOptimizer = TypeVar("AnyOptimizer", bound=torch.optim.Optimizer)

HYPER_PARAMETERS = LightningModule.CHECKPOINT_HYPER_PARAMS_KEY

SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "constant": lambda progress: 1.0,
    "steps": lambda progress: 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01,
}
"""Share of the first learning rate, given the share of the training that is over."""

RATES = {"lr", "initial_lr", "base_lrs", "_last_lr"}
"""What torch calls learning rates in the states of optimizers and schedules."""


def class_path(choice: Any) -> str:
    """Return the text for a choice where only plain types are kept, such as in a checkpoint.

    Args:
        choice: A name or class path, which is returned as it is, or a class or function.

    Raises:
        SettingError: If the path would not lead to the object: that of a lambda, or of a function within another.
    """
    if isinstance(choice, str):
        return choice
    path = f"{getattr(choice, '__module__', '')}.{getattr(choice, '__qualname__', '')}"
    if "<" in path or resolve("object", path) is not choice:
        raise SettingError(f"{choice!r} has no class path to keep: define it at the top of a module")
    return path


class CheckpointError(SettingError):
    """Tell of a checkpoint that does not hold what the configured model needs; whoever knows the file names it."""


class TrainingModule(SharedModule):
    """Define what all modules that ``train.py`` trains have.

    A run is a pure function of (configuration, seed, step): whatever is random draws from a generator keyed by seed,
    rank and step, and whatever moves is part of the checkpoint. So a run that was killed resumes exactly.

    Subclasses call ``save_hyperparameters()`` with plain types only, since checkpoints are read without unpickling.

    Args:
        seed: Key of everything random in the module, at least 0.

    Raises:
        SettingError: If an argument is outside its range.
    """

    resumes = False
    """Whether the trainer will restore a checkpoint, which it tells itself only after the setup."""

    sample_caption = "what the module makes of fixed inputs"
    """What :meth:`sample_grid` shows."""

    pruned: Mapping[str, norms.Plain] = MappingProxyType({})
    """Which layers are plain norms in the place of those that the settings name, see :func:`norms.prune`."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        check_range("seed", seed, at_least=0, at_most=2**63 - 1)
        self.seed = seed

    @property
    def batches_per_step(self) -> int:
        """How many batches of images one training step consumes."""
        return 1

    @property
    def networks(self) -> list[nn.Module]:
        """The networks that the options ``channels_last`` and ``compile`` of a module, if it has them, are about."""
        return []

    def configure_model(self) -> None:
        """Lay out and compile the networks as the options say, now that a training or an evaluation begins.

        Compilation is in place, so that checkpoints name weights as ever.

        Raises:
            SettingError: If ``compile`` is set, and there is no C++ compiler.
        """
        for network in self.networks:
            if self.hparams.get("channels_last"):
                network.to(memory_format=torch.channels_last)
            if self.hparams.get("compile"):
                check_compiler()
                network.compile()

    def check_data(self, data: Any) -> None:
        """Refuse data that does not fit the module, before any of it is read.

        Args:
            data: A data module; what it tells of its images beforehand (``channels``, ``image_size``, ``num_classes``)
                is looked at.

        Raises:
            SettingError: If its images or labels do not fit.
        """
        return

    def on_train_start(self) -> None:
        """Warn if a schedule does not go on at the learning rate at which the resumed run had stopped."""
        for schedule in (config.scheduler for config in self.trainer.lr_scheduler_configs):
            if not isinstance(schedule, LambdaLR) or schedule.last_epoch == 0:
                continue
            pairs = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
            planned = float(next(base * share(schedule.last_epoch) for base, share in pairs))
            reached = float(schedule.get_last_lr()[0])
            if not math.isclose(planned, reached, rel_tol=1e-6, abs_tol=1e-12):
                rank_zero_warn(
                    f"the learning rate had fallen to {reached:.3g} by step {self.global_step}, and jumps to "
                    f"{planned:.3g}, since its schedule is over trainer.max_steps, which was another; only a run that "
                    f"begins with trainer.max_steps: {self.trainer.max_steps} has a schedule without a jump"
                )
                return

    def noise(self, stream: int, *shape: int) -> Tensor:
        """Draw standard normal noise as a pure function of seed, rank, step, ``stream`` and ``shape``.

        Args:
            stream: Tells apart several draws within one step.
            shape: Shape of the noise.

        Returns:
            Noise on the module's device.
        """
        return torch.randn(shape, generator=self.keyed(stream), device=self.device)

    def keyed(self, stream: int) -> torch.Generator:
        """Return a random generator that is a pure function of seed, rank, step and ``stream``."""
        return generator(self.seed, self.global_rank, self.global_step, stream, device=self.device)

    def adam(
        self,
        module: nn.Module,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        lr_multipliers: Mapping[str, float] | None = None,
    ) -> torch.optim.Adam:
        """Build Adam over the parameter groups of ``module`` (see :func:`norms.param_groups`).

        After each of its steps mixing parameters are projected back onto their ranges.

        Args:
            module: What is trained.
            lr: Learning rate of weights, biases and affine parameters.
            betas: Decay rates of the moments.
            weight_decay: Weight decay of the weights.
            lr_multipliers: Learning rates of optimizer groups relative to ``lr``, such as ``{"rho": 10}``, in the place
                of those that the kinds of mixing values have.
        """
        groups = norms.param_groups(module, lr, weight_decay, lr_multipliers)
        # torch refuses a mixture of int and float, and YAML reads 0 as an int.
        return self._projecting(module, torch.optim.Adam(groups, lr=lr, betas=(float(betas[0]), float(betas[1]))))

    def sgd(
        self,
        module: nn.Module,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        lr_multipliers: Mapping[str, float] | None = None,
    ) -> torch.optim.SGD:
        """Build stochastic gradient descent in the same way as :meth:`adam`.

        Args:
            module: What is trained.
            lr: Learning rate of weights, biases and affine parameters.
            momentum: Share of the last step that is made again.
            weight_decay: Weight decay of the weights.
            lr_multipliers: As :meth:`adam` takes them.
        """
        groups = norms.param_groups(module, lr, weight_decay, lr_multipliers)
        return self._projecting(module, torch.optim.SGD(groups, lr=lr, momentum=float(momentum)))

    @staticmethod
    def _projecting(module: nn.Module, optimizer: AnyOptimizer) -> AnyOptimizer:
        optimizer.register_step_post_hook(lambda *_: norms.project_(module))
        optimizer.register_load_state_dict_pre_hook(_check_optimizer_state)
        return optimizer

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Put the module into evaluation mode without gradients, and restore every submodule's mode afterwards."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        """Score as in validation; the data decides which images these are."""
        return self.validation_step(batch, batch_idx)

    def sample_grid(self) -> Tensor:
        """Draw the picture that is logged during training, shape (3, H, W), values in [0, 1]."""
        raise RuntimeError(f"{type(self).__name__} makes no pictures")

    def next_command(self, run_dir: Path) -> str | None:
        """Return the command that a user would run next on the finished run in ``run_dir``, if there is one."""
        return None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record which module wrote the checkpoint, and which of its layers are pruned."""
        checkpoint["normlab"] = {"module": type(self).__name__, "version": normlab.__version__}
        if self.pruned:
            checkpoint["normlab"]["pruned"] = dict(self.pruned)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another module or of other hyperparameters, before any weight is touched.

        Layers that are pruned in the checkpoint are pruned here, too.

        The learning rate ``lr`` may differ: a training that has exploded goes on with a lower one. Then the rates in
        the checkpoint's states of optimizers and schedules are scaled to it.

        Raises:
            SettingError: If the checkpoint does not belong to this module as it is configured.
        """
        name = type(self).__name__
        writer = checkpoint.get("normlab")
        module = writer.get("module") if isinstance(writer, Mapping) else "another program's module"
        if module != name:
            raise SettingError(f"the checkpoint is of {module}, but the configured model is {name}")
        saved, configured = plain_settings(checkpoint), plain_settings({HYPER_PARAMETERS: self.hparams})
        # Settings that there were not yet when it was written had what is their default now.
        defaults = default_settings(type(self))
        saved |= {key: defaults[key] for key in defaults.keys() & configured.keys() - saved.keys()}
        different = {key for key in saved.keys() | configured.keys() if saved.get(key) != configured.get(key)}
        if "lr" in different and _is_rate(saved.get("lr")) and _is_rate(configured.get("lr")):
            different.remove("lr")
            _scale_rates(checkpoint, float(configured["lr"]) / float(saved["lr"]))
        if different:
            changes = (f"{key} was {saved.get(key)!r}, is now {configured.get(key)!r}" for key in sorted(different))
            raise SettingError(
                f"the checkpoint was trained with other settings than the configured model: {'; '.join(changes)}"
            )
        pruned = writer.get("pruned", {}) if isinstance(writer, Mapping) else {}
        if not isinstance(pruned, Mapping):
            raise SettingError("what the checkpoint says of its pruned layers is no table")
        norms.prune_as(self, pruned)
        self.pruned = pruned

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights as torch does.

        Raises:
            CheckpointError: If some are missing or of another shape.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            reason = textwrap.shorten(str(error), 200, placeholder=" ...")
            raise CheckpointError(f"the checkpoint does not fit the configured model: {reason}") from error


def check_compiler() -> None:
    """Refuse to compile where there is no C++ compiler, which ``torch.compile`` calls.

    Raises:
        SettingError: If there is none.
    """
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    command = os.environ.get("CXX", usual)
    if shutil.which(command) is None:
        raise SettingError(
            f"model.compile needs a C++ compiler, and there is no {command}: install one, name it in the environment "
            "variable CXX, or leave compile out"
        )


def plain_settings(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters that a checkpoint holds, without what LightningCLI adds to them.

    Raises:
        SettingError: If they are something else than a table of settings.
    """
    settings = checkpoint.get(HYPER_PARAMETERS, {})
    if not isinstance(settings, Mapping) or not all(isinstance(key, str) for key in settings):
        raise SettingError("the checkpoint's hyperparameters are no table of settings")
    # YAML and checkpoints disagree on tuples and lists.
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in settings.items()
        if not key.startswith("_")
    }


def default_settings(module_class: type[TrainingModule]) -> dict[str, Any]:
    """Return the settings of a module that have a default."""
    parameters = inspect.signature(module_class).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    return plain_settings({HYPER_PARAMETERS: defaults})


def _is_rate(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


def _scale_rates(checkpoint: dict[str, Any], factor: float) -> None:
    """Scale learning rates in the states of optimizers and schedules, which torch restores."""

    def scaled(state: Any) -> Any:
        if isinstance(state, Mapping):
            return {key: _times(value, factor) if key in RATES else scaled(value) for key, value in state.items()}
        return [scaled(value) for value in state] if isinstance(state, list) else state

    for states in ("optimizer_states", "lr_schedulers"):
        if states in checkpoint:
            checkpoint[states] = scaled(checkpoint[states])


def _times(rate: Any, factor: float) -> Any:
    return [each * factor for each in rate] if isinstance(rate, list) else rate * factor


def _check_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Refuse a saved state of other parameters, which torch would find out about in the middle of a step."""
    groups = optimizer.param_groups
    saved: Any = state.get("param_groups")
    states: Any = state.get("state")
    if not (_are_tables(saved) and isinstance(states, Mapping) and _are_tables([*states.values()])):
        raise CheckpointError("the checkpoint's optimizer is damaged")
    if [len(group["params"]) for group in groups] != [len(group.get("params", ())) for group in saved]:
        raise CheckpointError("the checkpoint's optimizer has other parameter groups than the configured model")
    names = {name for each in states.values() for name in each}
    if missing := sorted({name for each in states.values() for name in names - each.keys()}):
        raise CheckpointError(f"the checkpoint's optimizer lacks {', '.join(missing)} of some weights")
    parameters = [parameter for group in groups for parameter in group["params"]]
    for number, parameter in zip((n for group in saved for n in group["params"]), parameters, strict=True):
        for name, value in states.get(number, {}).items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                raise CheckpointError(
                    f"the checkpoint's optimizer has {name} of shape {tuple(value.shape)} "
                    f"for weights of shape {tuple(parameter.shape)}"
                )


def _are_tables(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(each, Mapping) for each in values)

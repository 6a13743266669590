"""Spectral normalization (Miyato et al., 2018)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import SettingError, check_range, unknown
from .parametrized import (
    CONVOLUTIONS,
    TRANSPOSED_CONVOLUTIONS,
    WeightParametrization,
    check_weight,
    parametrized_weights,
)
from .pooling import whole
from .precision import wide_dtype, without_autocast
from .recomputation import is_repeated

UPDATES = ("forward", "step")
_FIRST_ITERATIONS = 15
"""Power iterations at the start, as many as torch's spectral_norm makes."""


@dataclass(frozen=True)
class _Matrix:
    """Take the weight as a matrix, whose rows are the slices along ``dim``."""

    dim: int

    def input_shape(self, weight: Tensor) -> tuple[int, ...]:
        return (weight.numel() // weight.shape[self.dim],)

    def apply(self, weight: Tensor, v: Tensor) -> Tensor:
        return weight.movedim(self.dim, 0).flatten(1) @ v

    def adjoint(self, weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return weight.movedim(self.dim, 0).flatten(1).T @ u


@dataclass(frozen=True)
class _Convolution:
    """Take the linear map from one unbatched input of a convolution to its output."""

    channels: int
    size: tuple[int, ...]
    padding_mode: str
    around_input: tuple[int, ...]
    geometry: tuple[Any, ...]

    def input_shape(self, weight: Tensor) -> tuple[int, ...]:
        return (self.channels, *self.size)

    def apply(self, weight: Tensor, v: Tensor) -> Tensor:
        padded = F.pad(v.unsqueeze(0), self.around_input, self.padding_mode)
        return torch.convolution(padded, weight, None, *self.geometry).squeeze(0)

    def adjoint(self, weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
        pulled_back: Tensor = torch.func.vjp(partial(self.apply, weight), v)[1](u)[0]
        return pulled_back


class _SpectralNorm(WeightParametrization):
    """Divide the weight by u^T W v; W is the linear map ``operator`` that the weight defines."""

    _u: Tensor
    _v: Tensor
    _written = True
    """Whether u and v are more than memory that nobody has written to."""

    def __init__(
        self, weight: Tensor, operator: _Matrix | _Convolution, n_power_iterations: int, eps: float, update: str
    ) -> None:
        super().__init__()
        self.operator = operator
        self.n_power_iterations = n_power_iterations
        self.eps = eps
        self.update = update
        weight = weight.detach().to(wide_dtype(weight))
        v = weight.new_zeros(operator.input_shape(weight))
        with without_autocast(weight.device):
            u = torch.empty_like(operator.apply(weight, v), dtype=weight.dtype)
        self.register_buffer("_u", u)
        self.register_buffer("_v", v)
        self.reset_parameters()
        self.power_iterate_(weight, _FIRST_ITERATIONS)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start u and v anew, u at random, as after ``to_empty``; from there on power iteration finds them."""
        u = torch.randn_like(self._u)
        self._u.copy_(u / torch.linalg.vector_norm(u))
        self._v.fill_(self._v.numel() ** -0.5)

    @torch.no_grad()
    def power_iterate_(self, weight: Tensor, iterations: int | None = None) -> None:
        weight = weight.to(wide_dtype(weight))
        if iterations is None:
            iterations = max(self.n_power_iterations, _FIRST_ITERATIONS if self.is_lost() else 1)
        # Of a u without direction, as memory may have it, nothing would ever come.
        u, v = (torch.where(_has_direction(t), t, t.numel() ** -0.5).to(weight.dtype) for t in (self._u, self._v))
        with without_autocast(weight.device):
            for _ in range(iterations):
                v = self._unit(self.operator.adjoint(weight, u, v), v)
                u = self._unit(self.operator.apply(weight, v), u)
        self._u.copy_(u)
        self._v.copy_(v)
        self._written = True

    def is_lost(self, wait: bool = False) -> bool:
        """Tell whether u or v is 0 or not finite, on a GPU only with ``wait`` or after ``to_empty``."""
        if torch.compiler.is_compiling() or (self._u.device.type != "cpu" and self._written and not wait):
            return False
        try:
            found = bool(_has_direction(self._u) & _has_direction(self._v))
        except RuntimeError:
            return False  # of many models under torch.vmap, or of no data
        self._written = self._written or found
        return not found

    def check(self, label: str = "", wait: bool = True) -> None:
        """Refuse u and v that no spectral norm follows from."""
        if self.is_lost(wait):
            raise SettingError(
                f"{label or 'a weight'} cannot be normalized, since u and v of its spectral norm are 0 or not finite: "
                "train a step, load a state, or call reset_parameters of the parametrization and norms.power_iterate_"
            )

    def _unit(self, vector: Tensor, otherwise: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(vector)
        return torch.where(norm > self.eps, vector / norm, otherwise)

    def sigma(self, weight: Tensor) -> Tensor:
        weight = weight.to(wide_dtype(weight))
        # Copies, since the next forward pass may move u and v before this one's backward pass needs them.
        u, v = self._u.to(weight.dtype, copy=True), self._v.to(weight.dtype, copy=True)
        with without_autocast(weight.device):
            return (u * self.operator.apply(weight, v)).sum()

    def forward(self, weight: Tensor) -> Tensor:
        if not self.training:
            self.check(f"a weight of shape {tuple(weight.shape)}", wait=False)
        sigma = self.sigma(weight)
        # A weight of 0 stays 0, and may learn to be something else. One without a u is better infinite or NaN than left
        # as it is.
        divisor = torch.where(sigma.abs() <= self.eps, torch.linalg.vector_norm(self._u), sigma)
        return (weight.to(divisor.dtype) / divisor).to(weight.dtype)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "_SpectralNorm":
        before = dict(self.named_buffers())
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in self.named_buffers():
            if before[name].is_meta and not buffer.is_meta:
                # Training starts anew from NaN.
                buffer.fill_(torch.nan)
                self._written = False
            elif wide_dtype(buffer) != buffer.dtype:
                # A module in half precision keeps u and v in float32: rounded, they would no longer be unit vectors.
                setattr(self, name, before[name].to(buffer.device, wide_dtype(buffer)))
        return self

    def extra_repr(self) -> str:
        size = f", input_size={self.operator.size}" if isinstance(self.operator, _Convolution) else ""
        return f"n_power_iterations={self.n_power_iterations}, eps={self.eps}, update={self.update}{size}"


def _has_direction(vector: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(vector)
    return (length > 0.5) & (length < torch.inf)


def spectral_norm(
    module: nn.Module,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    update: Literal["forward", "step"] = "forward",
    input_size: Sequence[int] | None = None,
) -> nn.Module:
    r"""Divide the weight of a layer by its spectral norm, in place.

    .. math::
        \bar W = \frac{W}{\sigma(W)}, \qquad \sigma(W) = \max_{v \neq 0} \frac{\lVert W v \rVert}{\lVert v \rVert}
        \approx u^\top W v

    where u and v follow the leading singular vectors of W by power iteration,

    .. math::
        v \leftarrow \frac{W^\top u}{\lVert W^\top u \rVert}, \qquad u \leftarrow \frac{W v}{\lVert W v \rVert}

    15 times here, and then ``n_power_iterations`` times per update. The gradient flows through W in
    :math:`u^\top W v`, with u and v constant.

    By default W is the weight reshaped to a matrix with one row per output channel, as in the paper. The linear map
    that a convolution with k positions is may have a norm up to :math:`\sqrt{k}` times larger. With ``input_size`` W is
    that map, with stride, padding, dilation and groups, for inputs of that size; an update then costs a forward and a
    backward pass of one sample, and as its singular values lie closer together, the iteration needs more steps.

    Reading the weight never moves u and v. With ``update="forward"`` they move at each forward call of the module in
    training mode, as published. With ``update="step"`` they move when :func:`power_iterate_` is called, which is for
    once per optimizer step: for weights that are read other than in the module's own forward pass, for activation
    checkpointing, and for many forward passes per step.

    Initialize the weight before: afterwards ``nn.init`` on it has no effect, nor has the layer's ``reset_parameters``.
    After ``to_empty`` initialize ``parametrizations.weight.original`` by ``nn.init``, and train or call
    :func:`power_iterate_`: both start u and v anew where they are 0 or not finite. Evaluation, on GPUs only after
    ``to_empty``, :func:`sigmas` and :func:`fold_` refuse those.

    An average of models must copy u and v, since an average of unit vectors is none: with
    ``torch.optim.swa_utils.AveragedModel`` that is ``use_buffers=False``.

    The module has afterwards, in place of the weight:

    - ``parametrizations.weight.original`` (Parameter): W before the division, starts at the weight.
    - ``parametrizations.weight.0._u`` (buffer): u, shape (out,); with ``input_size`` the shape of an output,
      (out_channels, \*). Its random start is drawn from torch's global generator.
    - ``parametrizations.weight.0._v`` (buffer): v, shape (numel / out,); with ``input_size`` (in_channels,
      \*input_size).

    Names and shapes are those of ``torch.nn.utils.parametrizations.spectral_norm`` (without ``input_size``), so that
    either loads what the other has saved.

    Numeric policy: everything is computed in float32 for half-precision weights, under autocast also, and u and v
    stay in float32 when the module is cast to half precision.

    Args:
        module: The layer.
        name: Its parameter to normalize, which must have at least 2 dimensions. Outputs are along its first dimension,
            in transposed convolutions along the second.
        n_power_iterations: Iterations per update, at least 1.
        eps: A norm no larger than this is taken as 0: then u, v and the weight are left as they are. Positive.
        update: When u and v move.
        input_size: Spatial size of a convolution's inputs: (L,), (H, W) or (D, H, W).

    Returns:
        ``module``.

    Raises:
        SettingError: If there is no such parameter, or it is parametrized already, has no shape yet or is a vector; if
            another argument is outside its range; in evaluation if u or v is 0 or not finite.

    Source:
        Miyato et al., Spectral Normalization for Generative Adversarial Networks, ICLR 2018, section 2.1 and
        algorithm 1.
    """
    weight = check_weight(module, name)
    check_range("n_power_iterations", n_power_iterations, at_least=1)
    check_range("eps", eps, above=0)
    if update not in UPDATES:
        raise unknown("update", update, UPDATES)
    operator = matrix(module) if input_size is None else convolution(module, weight, tuple(input_size), name)
    parametrization = _SpectralNorm(weight, operator, n_power_iterations, eps, update)
    nn.utils.parametrize.register_parametrization(module, name, parametrization)
    parametrization.hook = module.register_forward_pre_hook(partial(_power_iterate_in_training, name=name))
    return module


@torch.no_grad()
def sigmas(model: nn.Module) -> dict[str, float]:
    """Read the spectral norms u^T W v that spectrally normalized weights are divided by in evaluation mode.

    Nothing is changed: neither u and v nor anything else. The key is the layer's dotted name; for a parameter other
    than ``weight`` its name follows that of the layer. sigma is 0 for a weight of 0, which is not divided.
    """
    found = list(parametrized_weights(model, _SpectralNorm))
    for each in found:
        each.parametrization.check(each.label)
    return {w.label: float(w.parametrization.sigma(whole(w.originals.original))) for w in found}


def power_iterate_(model: nn.Module) -> None:
    """Move u and v of every spectrally normalized weight by its ``n_power_iterations``, in place.

    Layers made with ``update="step"`` need it once after each optimizer step. It may be called for others too, and
    more often, for a sharper sigma.
    """
    for weight in parametrized_weights(model, _SpectralNorm):
        weight.parametrization.power_iterate_(whole(weight.originals.original))


def _power_iterate_in_training(module: nn.Module, args: tuple[Any, ...], *, name: str) -> None:
    if module.training and not is_repeated():
        originals: Any = module.get_submodule(f"parametrizations.{name}")
        if originals[0].update == "forward" or originals[0].is_lost():
            originals[0].power_iterate_(whole(originals.original))


def matrix(module: nn.Module) -> _Matrix:
    """Return the linear map that the weight of a layer is as a matrix with a row per output."""
    return _Matrix(1 if isinstance(module, TRANSPOSED_CONVOLUTIONS) else 0)


def convolution(module: nn.Module, weight: Tensor, size: tuple[int, ...], name: str = "weight") -> _Convolution:
    """Return the linear map that a convolution with this weight is, or say why there is none."""
    kind = type(module).__name__
    if not isinstance(module, CONVOLUTIONS) or name != "weight":
        raise SettingError(f"input_size is for the weight of a convolution, not for {kind}.{name}")
    dims = weight.ndim - 2
    if len(size) != dims or min(size) < 1:
        raise SettingError(f"input_size must be {dims} positive numbers for {kind}, got {size}")
    if isinstance(module, TRANSPOSED_CONVOLUTIONS):
        # Its padding is cropped from the output.
        around_input, cropping, transposed = (0, 0) * dims, module.padding, True
    else:
        around_input, cropping, transposed = _padding(module), (0,) * dims, False
    operator = _Convolution(
        channels=module.in_channels,
        size=size,
        padding_mode="constant" if module.padding_mode == "zeros" else module.padding_mode,
        around_input=around_input,
        geometry=(module.stride, cropping, module.dilation, transposed, module.output_padding, module.groups),
    )
    probe = weight.detach().to(wide_dtype(weight))
    try:
        with without_autocast(weight.device):
            operator.apply(probe, probe.new_zeros(operator.input_shape(probe)))
    except RuntimeError as error:
        raise SettingError(f"input_size {size} does not fit this {kind}: {error}") from error
    return operator


def _padding(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[int, ...]:
    """Return what the convolution adds to its input, in the order of ``F.pad``: the last dimension first."""
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        sides = [(total // 2, total - total // 2) for total in totals]
    elif isinstance(module.padding, str):
        sides = [(0, 0)] * len(module.kernel_size)
    else:
        sides = [(p, p) for p in module.padding]
    return tuple(p for side in reversed(sides) for p in side)

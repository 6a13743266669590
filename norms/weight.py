"""Weight normalization (Salimans & Kingma, 2016) and its data-dependent initialization."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn

from .errors import SettingError, check_range
from .parametrized import (
    CONVOLUTIONS,
    TRANSPOSED_CONVOLUTIONS,
    ParametrizedWeight,
    WeightParametrization,
    check_weight,
    parametrized_weights,
)
from .pooling import is_distributed
from .precision import wide_dtype

_VARIANCE_EPS = 1e-10
"""Keeps the scale of a constant channel finite. As small as the variances that good layers can have."""


class _WeightNorm(WeightParametrization):
    """Compute the weight from g and v; ``groups`` are those of a transposed convolution, None for other layers."""

    def __init__(self, groups: int | None) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        dtype = wide_dtype(v)
        wide = v.to(dtype)
        squares = self._sum_of_squares(wide)
        # The root of 0 has no gradient: a v of 0 is left undivided instead, so that the weight is g * 0.
        norm = torch.where(squares > 0, squares, 1).sqrt()
        scale = g.to(dtype) / norm
        if self.groups is not None:
            inputs_per_group = len(v) // self.groups
            scale = scale.unsqueeze(1).expand(-1, inputs_per_group, *scale.shape[1:]).flatten(0, 1)
        return (wide * scale).to(v.dtype)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self._sum_of_squares(weight.to(wide_dtype(weight))).sqrt().to(weight.dtype), weight

    def _sum_of_squares(self, v: Tensor) -> Tensor:
        if self.groups is None:
            return v.square().sum(tuple(range(1, v.ndim)), keepdim=True)
        per_group: Tensor = v.square().unflatten(0, (self.groups, -1)).sum(1)
        return per_group.sum(tuple(range(2, per_group.ndim)), keepdim=True)


def weight_norm(module: nn.Module, name: str = "weight") -> nn.Module:
    r"""Let a layer learn the length of its weight vectors apart from their direction, in place.

    The weight vector of each output unit becomes

    .. math::
        w = g \, \frac{v}{\lVert v \rVert}

    which starts with the value that it has. A unit is an output channel of a linear layer, a convolution or a
    *transposed* convolution, whose filters are ``weight[inputs of the group, o]``; torch's ``weight_norm`` normalizes
    those per input channel. In any other module it is a slice along the first dimension, such as one vector of an
    embedding.

    Initialize the weight before: afterwards ``nn.init`` on it has no effect, while assigning to it has. Where v is 0
    the weight is 0 and so are the gradient of g and, as long as g is 0, that of v: a filter that starts with zeros
    stays so.

    Parameters of the module afterwards, in place of the weight:

    - ``parametrizations.weight.original0``: g, starts at the norms of the weight's vectors; shape (out, 1, ...), for
      transposed convolutions (groups, out / groups, 1, ...).
    - ``parametrizations.weight.original1``: v, starts at the weight, and has its shape.

    These are the names, and but for transposed convolutions the shapes, of
    ``torch.nn.utils.parametrizations.weight_norm``, so that either loads what the other has saved. The older names
    ``weight_g`` and ``weight_v`` load too.

    Numeric policy: norms and quotient are computed in float32 for half-precision weights, under autocast also.

    Args:
        module: The layer.
        name: Its parameter to normalize, which must have at least 2 dimensions.

    Returns:
        ``module``.

    Raises:
        SettingError: If there is no such parameter, or it is parametrized already, has no shape yet or is a vector.

    Source:
        Salimans & Kingma, Weight Normalization: A Simple Reparameterization to Accelerate Training of Deep Neural
        Networks, NeurIPS 2016, section 2.
    """
    check_weight(module, name)
    parametrization = _WeightNorm(
        module.groups if isinstance(module, TRANSPOSED_CONVOLUTIONS) and name == "weight" else None
    )
    nn.utils.parametrize.register_parametrization(module, name, parametrization, unsafe=True)
    parametrization.hook = module.register_load_state_dict_pre_hook(partial(_rename_older_keys, name=name))
    return module


def _rename_older_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any, name: str) -> None:
    for number, letter in enumerate("gv"):
        if f"{prefix}{name}_{letter}" in state_dict:
            value = state_dict.pop(f"{prefix}{name}_{letter}")
            state_dict[f"{prefix}parametrizations.{name}.original{number}"] = value


@torch.no_grad()
def initialize_weight_norm_(model: nn.Module, *batch: Any, init_scale: float = 1.0) -> None:
    r"""Initialize weight-normalized layers so that their outputs are standardized on one batch, in place.

    In the order of the forward pass, each linear or (transposed) convolutional layer gets

    .. math::
        g = \frac{s}{\sigma[t]}, \qquad b = -\mu[t] \, g, \qquad t = \frac{v \cdot x}{\lVert v \rVert}, \qquad
        \sigma[t] = \sqrt{\mathrm{Var}[t] + 10^{-10}}

    with mean and biased variance per output channel, where the layers before are initialized already. So its output
    has mean 0 and standard deviation s on this batch; without bias it has the standard deviation alone. A layer that
    is called several times is initialized at its first call. Other weight-normalized modules, such as embeddings,
    keep their g.

    The forward pass runs without gradients and in training mode (parts in evaluation mode of a model in training mode
    stay so). Modes, buffers such as running statistics, and the states of the random number generators are restored
    afterwards; if anything fails, so are all parameters.

    If ``torch.distributed`` is initialized, all processes must call this, each with a batch of its own, and end with
    what the first one computed from its batch.

    Args:
        model: Called as ``model(*batch)``. It should be the model as trained, but need not be: any module whose
            forward pass reaches all of its weight-normalized layers will do.
        batch: Inputs, enough of them for the statistics of each channel: hundreds of images in the paper's code.
        init_scale: Standard deviation s of the outputs, positive.

    Raises:
        SettingError: If ``init_scale`` is not positive and finite; if the model has no layer to initialize or the
            forward pass does not reach all of them; if a layer has fewer than two outputs per channel, or any that is
            not finite.

    Source:
        Salimans & Kingma, Weight Normalization: A Simple Reparameterization to Accelerate Training of Deep Neural
        Networks, NeurIPS 2016, section 3.
    """
    check_range("init_scale", init_scale, above=0, below=math.inf)
    found = parametrized_weights(model, _WeightNorm)
    pending = {w.label: w for w in found if w.name == "weight" and isinstance(w.layer, (nn.Linear, *CONVOLUTIONS))}
    if not pending:
        raise SettingError("the model has no weight-normalized linear or convolutional layer")
    pairs = [(w.originals.original0, w.layer.bias) for w in pending.values()]
    with ExitStack() as stack:
        stack.enter_context(_restoring(model, [t for pair in pairs for t in pair if isinstance(t, Tensor)]))
        # The hooks are not made to be compiled.
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for label, weight in pending.items():
            hook = partial(_initialize_at_first_call, label=label, init_scale=init_scale, pending=pending)
            stack.callback(weight.layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        model(*batch)
        if pending:
            names = ", ".join(f"'{label}'" for label in pending)
            raise SettingError(f"nothing was initialized, since the forward pass did not reach {names}")


def _initialize_at_first_call(
    layer: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    label: str,
    init_scale: float,
    pending: dict[str, ParametrizedWeight[_WeightNorm]],
) -> None:
    if label not in pending:
        return
    originals: Any = pending.pop(label).originals
    g, v, bias = originals.original0, originals.original1, layer.bias
    g.fill_(1)
    if bias is not None:
        bias.zero_()
    # The module itself would call this hook again.
    outputs = layer.forward(*args, **kwargs)
    outputs = outputs.to(wide_dtype(outputs)).movedim(1 - v.ndim, 0).flatten(1)
    var, mean = torch.var_mean(outputs, 1, correction=0)
    scale = init_scale * torch.rsqrt(var + _VARIANCE_EPS)
    if outputs.shape[1] < 2:
        scale.fill_(math.nan)
    initial = torch.stack([scale, -mean * scale])
    if is_distributed():
        # Before the next layer, whose inputs may depend on all processes. And before any complaint: all must agree.
        distributed.broadcast(initial, src=0)
    if not initial.isfinite().all():
        raise SettingError(f"'{label}' needs two outputs or more per channel, all finite, which it does not have here")
    g.copy_(initial[0].view_as(g))
    if bias is not None:
        bias.copy_(initial[1])


@contextmanager
def _restoring(model: nn.Module, parameters: list[Tensor]) -> Iterator[None]:
    """Train inside; afterwards modes, buffers and random states are as before, after a failure ``parameters`` too."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    values = [parameter.clone() for parameter in parameters]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices):
            if not model.training:
                model.train()
            yield
    except BaseException:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)
        raise
    finally:
        for module, training in modes:
            module.training = training
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])

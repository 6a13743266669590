"""Conditional normalization: gamma and beta by class or style (Dumoulin et al., 2017; de Vries et al., 2017)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import MomentNorm
from .errors import SettingError, check_range
from .precision import check_floating
from .tracing import trace_call


class ConditionalNorm(nn.Module):
    r"""Give any norm a gamma and beta for each condition, such as a class or a style.

    .. math::
        y_n = \gamma_{k_n} \odot \mathrm{norm}(x)_n + \beta_{k_n}

    where :math:`k_n` is the condition of sample n, and all conditions share the statistics. In place of one
    condition, a sample may have a share :math:`s_{nk}` in each:

    .. math::
        \gamma_n = \sum_k s_{nk} \gamma_k, \qquad \beta_n = \sum_k s_{nk} \beta_k

    Shares that sum to 1 interpolate, as between styles. They are taken as they are, so that others extrapolate or, with
    sum 0, move along the difference of two conditions.

    ``nn.Sequential`` hands on a single argument: a network passes the condition to its blocks itself. With ``none`` for
    a norm it is feature-wise linear modulation alone.

    Args:
        norm: The norm, without gamma and beta of its own.
        num_conditions: Number of conditions K.
        num_features: Number of channels C; None asks the norm.
        device: Where the tables live.
        dtype: Dtype of the tables.

    Attributes:
        weight (Parameter): gamma of each condition, shape (K, C), starts at the norm's ``initial_gamma``, or at 1.
        bias (Parameter): beta of each condition, shape (K, C), starts at 0.

    Raises:
        SettingError: If the norm has a gamma or beta, does not tell its channels or has others than ``num_features``,
            or if ``num_conditions`` is below 1; in the forward pass if the condition does not fit. That an index is too
            large is found on the CPU; on a GPU the look would wait for it, and the index fails where it is used.

    Shape:
        Input and output: (N, C, \*), as the norm has it. Condition: an int; integers, shape (N,), or () for all
        samples alike; or shares of a floating dtype, shape (N, K), or (K,) for all samples alike. gamma and beta are
        applied in the norm's own pass if it is one of this package, otherwise after it, in float32 for bfloat16 and
        float16 input.

    Source:
        Dumoulin et al., A Learned Representation for Artistic Style, ICLR 2017, section 2.2; de Vries et al.,
        Modulating Early Visual Processing by Language, NeurIPS 2017, section 3; Miyato & Koyama, cGANs with Projection
        Discriminator, ICLR 2018, for classes; Perez et al., FiLM, AAAI 2018, without a norm.
    """

    def __init__(
        self,
        norm: nn.Module,
        num_conditions: int,
        num_features: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if getattr(norm, "weight", None) is not None or getattr(norm, "bias", None) is not None:
            name = type(norm).__name__
            raise SettingError(f"{name} has a gamma or beta of its own: build the norm with affine=False")
        check_range("num_conditions", num_conditions, at_least=1)
        self.norm = norm
        self.num_conditions = num_conditions
        self.num_features = _num_features(norm, num_features)
        shape = (num_conditions, self.num_features)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Return gamma and beta of every condition to their initial values."""
        nn.init.constant_(self.weight, getattr(self.norm, "initial_gamma", 1.0))
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, condition: Tensor | int) -> Tensor:
        """Normalize ``x`` and apply gamma and beta of the condition, index or shares, of each sample or of all."""
        if isinstance(x, torch.fx.Proxy):
            return trace_call(self, x, condition)
        check_floating(x, type(self).__name__)
        return apply_affine(self.norm, x, *self._affine(condition, x.shape[0]))

    def _affine(self, condition: Tensor | int, samples: int) -> tuple[Tensor, Tensor]:
        """Return gamma and beta: of each sample, shape (N, C), or of all, shape (C,)."""
        if isinstance(condition, int):
            check_range("condition", condition, at_least=0, at_most=self.num_conditions - 1)
            return self.weight[condition], self.bias[condition]
        check_condition(condition, samples, self.num_conditions)
        if condition.is_floating_point():
            # No matrix product, which autocast would round.
            shares = condition.unsqueeze(-1)
            return (shares * self.weight).sum(-2), (shares * self.bias).sum(-2)
        index = condition.long()
        return F.embedding(index, self.weight), F.embedding(index, self.bias)

    def extra_repr(self) -> str:
        """Return the arguments, as torch's own norms do."""
        return f"num_conditions={self.num_conditions}, num_features={self.num_features}"


class NormPerCondition(nn.Module):
    r"""Give each condition, such as a style, a norm of its own, with all that it learns.

    Where :class:`ConditionalNorm` has a gamma and beta by condition, and one rho or one set of switch weights for all,
    here each condition learns its own:

    .. math::
        y_n = \mathrm{norm}_{k_n}(x)_n, \qquad \text{or with shares} \quad y_n = \sum_k s_{nk} \, \mathrm{norm}_k(x)_n

    Every norm sees all samples, so that conditions share the statistics of the batch. An index for all samples costs
    one norm, any other condition one norm for each of them.

    Args:
        norms: The norms by the names of their conditions, in their order. Names hold no dots, and are none of those
            that ``ModuleDict`` has for itself, such as ``clear``.

    Attributes:
        norms (ModuleDict): The norms.

    Raises:
        SettingError: If there are none, a name cannot be a layer's, or, in the forward pass, the condition does not
            fit.

    Shape:
        Input and output: (N, C, \*), as the norms have it. Condition: as that of :class:`ConditionalNorm`.

    Source:
        Dumoulin et al., A Learned Representation for Artistic Style, ICLR 2017, section 2.2, carried further from gamma
        and beta to all that a norm learns.
    """

    def __init__(self, norms: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if not norms or any("." in name or hasattr(nn.ModuleDict(), name) for name in norms):
            raise SettingError(
                f"conditions need names without dots, none of which ModuleDict has as an attribute, got "
                f"{', '.join(norms) or 'none'}"
            )
        self.norms = nn.ModuleDict(norms)
        self.num_conditions = len(norms)

    @property
    def num_features(self) -> Any:
        """The number of channels."""
        return channels_of(next(iter(self.norms.values())))

    def forward(self, x: Tensor, condition: Tensor | int) -> Tensor:
        """Normalize ``x`` by the norm of the condition, index or shares, of each sample or of all."""
        if isinstance(x, torch.fx.Proxy):
            return trace_call(self, x, condition)
        if isinstance(condition, int):
            check_range("condition", condition, at_least=0, at_most=self.num_conditions - 1)
            chosen: Tensor = list(self.norms.values())[condition](x)
            return chosen
        check_condition(condition, x.shape[0], self.num_conditions)
        shares = condition if condition.is_floating_point() else F.one_hot(condition.long(), self.num_conditions)
        shares = shares.expand(x.shape[0], -1).to(x.dtype).T.reshape(-1, x.shape[0], *(1,) * (x.ndim - 1))
        return torch.stack([share * norm(x) for share, norm in zip(shares, self.norms.values(), strict=True)]).sum(0)


def apply_affine(norm: nn.Module, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalize ``x`` by a norm without gamma and beta, and apply these: of each sample, (N, C), or of all, (C,)."""
    if isinstance(norm, MomentNorm):
        normalized: Tensor = norm(x, weight, bias)
        return normalized
    y = norm(x)
    weight, bias = (t.reshape(t.shape + (1,) * (x.ndim - 2)) for t in (weight, bias))
    return torch.addcmul(bias, y, weight).to(y.dtype)


def check_condition(condition: Tensor, samples: int, num_conditions: int) -> None:
    """Refuse a condition that fits neither the samples nor the number of conditions.

    An index that is too large is found on the CPU; on a GPU the look would wait for it.

    Raises:
        SettingError: If it does not fit.
    """
    mixed = condition.is_floating_point()
    shapes = [(num_conditions,), (samples, num_conditions)] if mixed else [(), (samples,)]
    # Only shapes of as many dimensions are compared: comparing N with K would fix N where a network is exported.
    fitting = [shape for shape in shapes if len(shape) == condition.ndim]
    if tuple(condition.shape) not in fitting or condition.dtype == torch.bool:
        raise SettingError(
            f"condition must be integers of shape () or ({samples},), or shares of a floating dtype and shape "
            f"({num_conditions},) or ({samples}, {num_conditions}), got {condition.dtype} of shape "
            f"{tuple(condition.shape)}"
        )
    if mixed or condition.device.type != "cpu" or condition.numel() == 0 or torch.compiler.is_compiling():
        return
    for index in condition.aminmax():
        check_range("condition", int(index), at_least=0, at_most=num_conditions - 1)


def channels_of(norm: nn.Module) -> Any:
    """Return the number of channels that a norm was built for, None if it does not tell."""
    return getattr(norm, "num_features", getattr(norm, "num_channels", None))


def _num_features(norm: nn.Module, given: int | None) -> int:
    known = channels_of(norm)
    found: int | None = known if given is None else given
    if found is None:
        raise SettingError(f"{type(norm).__name__} does not tell its number of channels: give num_features")
    if known is not None and known != found:
        raise SettingError(f"num_features must be the {known} channels of {type(norm).__name__}, got {given}")
    return found

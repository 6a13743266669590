"""What the norms of this package share, and what those that learn how to normalize add to it."""

import copy
import inspect
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypedDict, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .errors import SettingError, check_range
from .formula import Formula
from .kinds import MixingKind
from .moments import modulate, standardize
from .pooling import is_distributed, set_whole_, whole
from .precision import check_floating
from .recomputation import RecentPasses, is_repeated, restored
from .tracing import trace_call


class CommonOptions(TypedDict, total=False):
    """List the arguments of every norm of this package, which their constructors hand on to :class:`MomentNorm`."""

    affine: bool
    sync: bool
    process_group: Any
    device: torch.device | str | None
    dtype: torch.dtype | None


class NormOptions(CommonOptions, total=False):
    """List all arguments of :class:`MomentNorm` but the number of channels, ``eps`` and ``momentum``."""

    track_running_stats: bool
    initial_gamma: float


class MomentNorm(nn.Module, ABC):
    """Hold what the norms of this package share: arguments, parameters and running statistics.

    A norm is one class for input of any number of dimensions. Classes derived from it with ``dims=2`` or the like in
    their head take input of that many alone, and add its documentation to their own.

    Conventions are those of ``torch.nn.BatchNorm2d``: normalization uses
    the biased variance, ``running_var`` estimates the unbiased one, ``momentum`` weighs the new value, and evaluation
    uses the running statistics if they are tracked, otherwise the batch's own.

    Args:
        num_features: Number of channels C.
        eps: Added to variances, positive.
        momentum: Weight of the new batch in the running statistics, in [0, 1]; None averages all batches equally.
        affine: Whether to learn ``weight`` (gamma) and ``bias`` (beta, starts at 0), each of shape (C,).
        track_running_stats: Whether to keep ``running_mean`` (C,), ``running_var`` (C,) and ``num_batches_tracked``.
        initial_gamma: Where ``weight`` starts. With 0 in the last norm of a residual branch, the block starts as the
            identity (Goyal et al. 2017, arXiv 1706.02677, section 5.1).
        sync: Whether to pool the moments of the batch over all processes in training, each weighted by its count.
        process_group: With ``sync``, the group of processes to pool over; None takes all.
        device: Where parameters and buffers live.
        dtype: Dtype of parameters and buffers.

    Attributes:
        weight (Parameter): gamma, shape (C,), starts at ``initial_gamma``.
        bias (Parameter): beta, shape (C,), starts at 0.
        running_mean (Tensor): Shape (C,), starts at 0.
        running_var (Tensor): Unbiased estimate, shape (C,), starts at 1.
        num_batches_tracked (Tensor): int64 scalar.

    Raises:
        ValueError: If an argument is outside its range; in the forward pass if the shape or dtype does not fit or, in
            training, if there are too few values for a variance.

    Shape:
        Input and output: (N, C, L), (N, C, H, W) or (N, C, D, H, W), or (N, C) where the statistics exist. bfloat16 and
        float16 input is normalized in float32, under autocast also, and returned in its own dtype.
    """

    spatial_dims: ClassVar[int | None] = None
    """Number of spatial dimensions of the input; None takes any from 1 to 3."""
    spread: ClassVar[str | None] = "running_var"
    """Name of the buffer that goes with ``running_mean``; None if there is none."""

    def __init_subclass__(cls, dims: int | None = None) -> None:
        super().__init_subclass__()
        if dims is not None:
            cls.spatial_dims = dims
            cls.__doc__ = f"{cls.__doc__}\n\n{inspect.getdoc(cls.__base__)}"
        if "__init__" in vars(cls):
            type.__setattr__(cls, "__signature__", _full_signature(cls))

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        initial_gamma: float = 1.0,
        sync: bool = False,
        process_group: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_range("num_features", num_features, at_least=1)
        check_range("eps", eps, above=0)
        check_range("momentum", momentum, at_least=0, at_most=1)
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.initial_gamma = initial_gamma
        self.sync = sync
        self.process_group = process_group
        self._passes: RecentPasses | None = None
        self.weight: nn.Parameter | None
        self.bias: nn.Parameter | None
        for name, value in (("weight", initial_gamma), ("bias", 0.0)):
            start = nn.init.constant_(torch.empty(num_features, device=device, dtype=dtype), value)
            self.register_parameter(name, nn.Parameter(start) if affine else None)
        self.running_mean: Tensor | None
        self.num_batches_tracked: Tensor | None
        tracked = track_running_stats and self.uses_batch
        mean = torch.zeros(num_features, device=device, dtype=dtype) if tracked else None
        self.register_buffer("running_mean", mean)
        if self.spread is not None:
            self.register_buffer(self.spread, None if mean is None else self._initial_spread(mean))
        self.register_buffer("num_batches_tracked", torch.tensor(0, device=device) if tracked else None)

    @property
    def uses_batch(self) -> bool:
        """Whether batch statistics enter, so that running ones stand in for them in evaluation."""
        return True

    def _initial_spread(self, mean: Tensor) -> Tensor:
        return torch.ones_like(mean)

    def second_moment(self, centered: Tensor) -> Tensor:
        """Average the squares of centered values of shape (C, M) over M, in the shape of the spread."""
        return centered.square().mean(1)

    def observed_spread(self, second: Tensor, count: int | Tensor) -> Tensor:
        """Turn a biased second central moment over ``count`` values per channel into what the spread buffer tracks."""
        return second * (count / (count - 1))

    @torch.no_grad()
    def load_population_(self, mean: Tensor, spread: Tensor) -> None:
        """Set the running statistics to a mean, shape (C,), and a spread as :meth:`observed_spread` returns it."""
        if self.running_mean is None:
            raise ValueError(f"{type(self).__name__} does not track running statistics")
        self.running_mean.copy_(mean)
        if self.spread is not None:
            self.get_buffer(self.spread).copy_(spread)

    def reset_running_stats(self) -> None:
        """Forget the running statistics: mean 0, variance 1, no batches."""
        if self.running_mean is not None and self.num_batches_tracked is not None:
            mean = torch.zeros_like(self.running_mean)
            self.load_population_(mean, self._initial_spread(mean))
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Return parameters and running statistics to their initial values."""
        self.reset_running_stats()
        if self.weight is not None:
            nn.init.constant_(self.weight, self.initial_gamma)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Normalize ``x``, with gamma and beta in place of the layer's own, each of shape (C,), or (N, C) by sample."""
        if isinstance(x, torch.fx.Proxy):
            return trace_call(self, x, weight, bias)
        self._check_input(x)
        weight = self.weight if weight is None else weight
        bias = self.bias if bias is None else bias
        if self.training and is_repeated():
            with restored(self, self._passes.find(x) if self._passes else []):
                return self._normalize(x, weight, bias)
        if self.training and self._passes and not torch.compiler.is_compiling():
            self._passes.remember(x, self)
        return self._normalize(x, weight, bias)

    @abstractmethod
    def _normalize(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Normalize ``x``, which fits, and update the running statistics in training."""

    @property
    def _sync(self) -> Any:
        """Whom to pool with in this pass: nobody (False), all processes (True) or a group of them."""
        return self.sync and self.training and (self.process_group or True)

    def _check_input(self, x: Tensor) -> None:
        name, dims = type(self).__name__, self.spatial_dims
        flat = x.ndim == 2 and dims in (None, 1)
        if not flat and x.ndim - 2 not in ((1, 2, 3) if dims is None else (dims,)):
            needed = "3- to 5" if dims is None else dims + 2
            raise ValueError(f"{name} needs {needed}-dimensional input (N, C, ...), got shape {tuple(x.shape)}")
        if x.shape[1] != self.num_features:
            raise ValueError(f"{name} was built for {self.num_features} channels, got shape {tuple(x.shape)}")
        check_floating(x, name)
        self._check_count(x)

    def _check_count(self, x: Tensor) -> None:
        """Refuse input whose moments do not exist."""
        if self.training and x.numel() == x.shape[1] and not is_distributed(self._sync):
            raise ValueError(
                f"{type(self).__name__} needs more than one value per channel in training, got shape {tuple(x.shape)}: "
                "the variance of a single value does not exist"
            )

    @torch.no_grad()
    def _update_running_stats(self, mean: Tensor, second: Tensor, total: int | Tensor) -> None:
        count = self.num_batches_tracked
        if self.running_mean is None or count is None or (isinstance(total, int) and total == 0):
            return
        tracked, observed = [self.running_mean], [mean]
        if self.spread is not None:
            tracked.append(getattr(self, self.spread))
            observed.append(self.observed_spread(second, total))
        count.add_(1 if isinstance(total, int) else (total > 0).to(torch.int64))
        # A tensor, not a float: reading the count back would break a compiled graph.
        momentum = 1 / count.clamp_min(1).to(observed[0].dtype) if self.momentum is None else self.momentum
        for running, new in zip(tracked, observed, strict=True):
            if not isinstance(total, int):
                # All processes together may have had too little.
                new = torch.where(total > 1, new, running)
            if running.dtype == new.dtype:
                running.lerp_(new, momentum)
            else:
                running.copy_(torch.lerp(running.to(new.dtype), new, momentum))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *args: Any) -> None:
        count = self.num_batches_tracked
        if count is not None and metadata.get("version", 1) < 2:
            # As in torch.nn.BatchNorm2d: dictionaries made by hand or long ago do not have it.
            state.setdefault(f"{prefix}num_batches_tracked", torch.tensor(0) if count.is_meta else count)
        super()._load_from_state_dict(state, prefix, metadata, *args)

    def __deepcopy__(self, memo: dict[int, Any]) -> "MomentNorm":
        """Copy all but the process group, a handle, which copies share."""
        copied = memo[id(self)] = type(self).__new__(type(self))
        memo[id(self.process_group)] = self.process_group
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        return copied

    def extra_repr(self) -> str:
        """Return the arguments, as torch's own norms do: the usual ones, and what differs from its default."""
        usual = ("eps", "momentum", "affine", "track_running_stats")
        shown = [str(self.num_features)]
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = getattr(self, name, parameter.default)
            if name in usual or (name != "num_features" and value != parameter.default):
                shown.append(f"{name}={value}")
        return ", ".join(shown)


def _full_signature(cls: type[MomentNorm]) -> inspect.Signature:
    """Name the arguments that a constructor takes by ``**options`` and hands on."""
    _, *own = inspect.signature(vars(cls)["__init__"]).parameters.values()
    if own and own[-1].kind is inspect.Parameter.VAR_KEYWORD:
        options = own.pop()
        inherited = inspect.signature(cls.__mro__[1]).parameters
        # Annotated by Unpack, they are those of a TypedDict.
        unpacked = get_args(options.annotation)
        names = unpacked[0].__annotations__ if unpacked else inherited
        handed_on = [p for name, p in inherited.items() if name in names and name not in {each.name for each in own}]
        own += [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in handed_on]
    return inspect.Signature(own)


class FormulaNorm(MomentNorm):
    """Map each plane affinely, by coefficients that a formula derives from moments (see :mod:`norms.moments`)."""

    running_var: Tensor

    @abstractmethod
    def _formula(self) -> Formula:
        """Return the norm as a function of moments."""

    def _mixing(self) -> tuple[Tensor, ...]:
        """Return what the formula depends on beside moments."""
        return ()

    def _population(self) -> tuple[Tensor, Tensor, float]:
        """Return what stands in for mean and variance of a batch in evaluation, and what is added to the variance."""
        assert self.running_mean is not None
        return self.running_mean, self.running_var, self.eps

    def _normalize(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        formula = self._formula()
        population = None
        if not self.training and self.running_mean is not None:
            mean, var, eps = self._population()
            if not formula.per_sample:
                return standardize(x, mean, var, eps, weight, bias)
            population = mean, var
        y, batch = modulate(
            x, formula, self.eps, *self._mixing(), weight=weight, bias=bias, population=population, sync=self._sync
        )
        if self.training and batch is not None:
            self._update_running_stats(*batch)
        return y


class MixingNorm(FormulaNorm):
    """Learn how to normalize, and say what was learned.

    Logs, optimizer groups, analysis and conversion follow from :attr:`kinds` and these methods. They belong to the
    module, not to tags on its parameters, because tags are lost when a module is copied. Moments of single instances
    are part of a mixture, so that an instance has to have more than one value per channel.
    """

    kinds: ClassVar[tuple[MixingKind, ...]]
    """What the layer learns; the parameter of each kind bears its name."""

    def mixing_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that decide the mixture, by kind: where one is parametrized, its original."""
        names = [kind.name for kind in self.kinds]
        paths = [f"parametrizations.{n}.original" if parametrize.is_parametrized(self, n) else n for n in names]
        return {name: self.get_parameter(path) for name, path in zip(names, paths, strict=True)}

    def statistics_of(self, kind: MixingKind) -> tuple[str, ...]:
        """Return what the layer mixes of a kind, in the order of its parameter, or at the lower and the upper end."""
        return kind.statistics

    def mixing_values(self) -> dict[str, Tensor]:
        """Return the effective values by kind, as detached copies: probabilities, never logits.

        Where FSDP2 has distributed the parameters, all processes have to call this.
        """
        return {kind.name: whole(getattr(self, kind.name).detach()).clone() for kind in self.kinds}

    @classmethod
    def read_state(cls, state: Mapping[str, Tensor], **options: Any) -> dict[str, Tensor] | None:
        """Return what :meth:`mixing_values` would, from a layer's ``state_dict`` alone; None if it is of another layer.

        ``options`` are arguments that the layer was built with, as far as they are known. A ``SettingError`` is raised
        if the state does not say which values it holds, or how they follow from those it holds.
        """
        for kind in cls.kinds:
            if any(name.startswith(f"parametrizations.{kind.name}.") for name in state):
                raise SettingError(
                    f"its {kind.name} is parametrized by code that no checkpoint has: read it by norms.mixing_values, "
                    "or save it after torch.nn.utils.parametrize.remove_parametrizations"
                )
        read = {kind.name: state.get(kind.name) for kind in cls.kinds}
        return {k: v.detach().clone() for k, v in read.items() if v is not None} if None not in read.values() else None

    @torch.no_grad()
    def project_(self) -> None:
        """Return the mixing parameters to their allowed set, in place.

        Values per channel are clamped to their range. A clamp in the forward pass instead would have gradient 0 at an
        end of the range, where rho starts, and never let go of it. Labeled values need nothing, if they are logits, nor
        do parametrized ones.
        """
        for kind in self.kinds:
            if kind.per_channel and not parametrize.is_parametrized(self, kind.name):
                getattr(self, kind.name).clamp_(kind.low, kind.high)

    @torch.no_grad()
    def binarize_(self, statistic: str | None = None, within: float = math.inf) -> None:
        """Replace the mixture by the nearest pure one, in place, or by that of a statistic, if the layer knows it.

        Values per channel move to the nearer end of their range, from its middle to the upper one. Labeled values are
        taken for logits, as those of a softmax: the largest has the whole share afterwards, of equal ones the first.
        With ``within`` only values move that are as near to pure, see :meth:`MixingKind.impurity`.
        """
        for kind in self.kinds:
            known = self.statistics_of(kind)
            if statistic is None or statistic in known:
                index = None if statistic is None else known.index(statistic)
                own = whole(getattr(self, kind.name))
                near = kind.impurity(self.mixing_values()[kind.name]) <= within
                set_whole_(self, kind.name, torch.where(near, kind.pure(own, index), own))

    def _check_count(self, x: Tensor) -> None:
        if x.ndim == 2:
            raise ValueError(
                f"{type(self).__name__} needs (N, C, L) input, got shape {tuple(x.shape)}: "
                "instance statistics do not exist for a single value per channel"
            )
        if self.training and math.prod(x.shape[2:]) == 1:
            raise ValueError(
                f"{type(self).__name__} needs more than one value per channel and sample in training, "
                f"got shape {tuple(x.shape)}: the instance variance of a single value does not exist"
            )
        alone = self.training and x.shape[0] == 1 and self.uses_batch
        if alone and not torch.compiler.is_compiling() and not is_distributed(self._sync):
            warnings.warn(
                f"{type(self).__name__} trains on a batch of one sample, whose statistics are those of the instance: "
                f"{' and '.join(kind.name for kind in self.kinds)} cannot learn to choose between them, and evaluation "
                "by running statistics gives something else. Use larger batches, or no batch statistics",
                stacklevel=2,
            )

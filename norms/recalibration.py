"""Replace the statistics that a training leaves behind by those of a population."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parallel import DistributedDataParallel

from .base import MomentNorm
from .batch import BatchNorm
from .errors import SettingError, unknown
from .pooling import is_distributed

Model = TypeVar("Model", bound=nn.Module)

ESTIMATES = ("population", "minibatch")


@torch.no_grad()
def recalibrate(
    model: Model,
    batches: Iterable[Any],
    estimate: Literal["population", "minibatch"] = "population",
    forward: Callable[[nn.Module, Any], object] | None = None,
    sync: bool = True,
) -> Model:
    r"""Replace the running statistics of all norms of a model by statistics over given data, for the weights it has.

    Two estimates are known for layer inputs x:

    - ``population`` takes the moments of all that the layer is given as if it were one batch:

      .. math::
          \mu = \frac{1}{n} \sum_b n_b \mu_b, \qquad
          \sigma^2 = \frac{1}{n - 1} \sum_b n_b \left(\sigma_b^2 + (\mu_b - \mu)^2\right)

    - ``minibatch`` averages what the layer tracks of each batch, which is what running statistics estimate:

      .. math::
          \mu = \frac{1}{n} \sum_b n_b \mu_b, \qquad
          \sigma^2 = \frac{1}{n} \sum_b n_b \frac{n_b}{n_b - 1} \sigma_b^2

    where :math:`n_b` is the number of values per channel in batch b, :math:`n` their sum, and :math:`\sigma_b^2` the
    biased variance of the batch. Where the values of a batch depend on each other, as those of an image do, the means
    of batches differ by more than chance, which the first estimate counts and the second does not.

    Covered are the norms of this package and ``torch.nn.BatchNorm``, ``SyncBatchNorm`` and ``InstanceNorm`` in all
    dimensions, as far as they keep running statistics. What a layer keeps is what it gets: the mean alone, a standard
    deviation (:class:`norms.BatchRenorm2d`), a covariance (:class:`norms.DecorrelatedBatchNorm2d`). Instance
    normalization keeps averages of instance moments, for which both estimates are the same. A layer that is used
    several times pools all its inputs; a layer that the data never reach keeps what it has; a model without running
    statistics is returned as it is, and the batches are not touched.

    While the data pass through, norms normalize with the statistics of the batch at hand, so the result does not depend
    on the former statistics, and everything else is in evaluation mode. Batches should therefore be shuffled and as
    large as in training. Nothing is written before all batches have passed. Afterwards, and also after any exception,
    modes, hooks and all other buffers, ``num_batches_tracked`` among them, are as before.

    Args:
        model: Any module. A ``DistributedDataParallel`` is unwrapped, since its own forward waits for other processes.
        batches: Inputs of the model, on its device; of lists and tuples, as of images and labels, the first element.
        estimate: ``population`` or ``minibatch``.
        forward: Passes one batch through the model; by default ``model(batch)``, or ``model(batch[0])``.
        sync: Whether to pool over all processes of ``torch.distributed``, if it is initialized. Then all of them have
            to call this function, each with any number of batches of its own, and end with equal statistics. Without,
            one process may call it alone.

    Returns:
        The model.

    Raises:
        SettingError: If the estimate is unknown, if there is no batch, if no layer with running statistics is reached,
            or if the statistics of a layer are not finite.

    Source:
        Wu & Johnson, Rethinking "Batch" in BatchNorm, 2021, section 3, for ``population``; Ioffe & Szegedy, Batch
        Normalization, 2015, algorithm 2, for ``minibatch``.
    """
    if estimate not in ESTIMATES:
        raise unknown("estimate", estimate, ESTIMATES)
    network = model.module if isinstance(model, DistributedDataParallel) else model
    inputs = [
        _LayerInputs(name, layer, averaged=estimate == "minibatch")
        for name, layer in network.named_modules()
        if isinstance(layer, MomentNorm | _BatchNorm | _InstanceNorm) and layer.running_mean is not None
    ]
    if not inputs:
        return model
    number = 0
    with ExitStack() as stack:
        _observe(network, inputs, stack)
        for batch in batches:
            number += 1
            if forward is None:
                network(batch[0] if isinstance(batch, list | tuple) else batch)
            else:
                forward(network, batch)
    if sync and is_distributed():
        number = _pool_processes(inputs, number)
    if number == 0:
        raise SettingError("batches is empty: statistics need at least one batch")
    statistics = [(seen.layer, *seen.statistics()) for seen in inputs if seen.count]
    if not statistics:
        raise SettingError(
            f"none of the model's {len(inputs)} norms with running statistics was reached by the batches"
        )
    for layer, mean, spread in statistics:
        if isinstance(layer, MomentNorm):
            layer.load_population_(mean, spread)
        else:
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(spread)
    return model


class _LayerInputs:
    """Collect statistics of what one layer has been given."""

    def __init__(self, name: str, layer: Any, averaged: bool) -> None:
        # torch's layers track as this package's batch normalization does.
        norm = layer if isinstance(layer, MomentNorm) else BatchNorm(layer.num_features)
        self.name, self.layer = name, layer
        self.per_instance = isinstance(layer, _InstanceNorm)
        self.averaged = averaged or self.per_instance
        self.norm, self.spread_name = norm, norm.spread
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.count = 0
        self.mean = torch.zeros_like(_wide(self.layer.running_mean))
        # A biased second central moment, or the average of what the layer tracks.
        self.spread = torch.zeros_like(_wide(getattr(self.layer, self.spread_name or "running_mean")))

    def see(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take in an input of the layer, as a hook before its forward pass."""
        x = _wide((*args, *kwargs.values())[0])
        if self.per_instance:
            planes = (x if x.ndim > self.layer._get_no_batch_dim() else x[None]).flatten(2)
            var, mean = torch.var_mean(planes, 2)
            self.merge(len(planes), mean.mean(0), var.mean(0))
        else:
            values = x.movedim(1, 0).flatten(1)
            count, mean = values.shape[1], values.mean(1)
            spread = self.norm.second_moment(values - mean[:, None])
            self.merge(count, mean, self._observed(spread, count) if self.averaged else spread)

    def merge(self, count: int, mean: Tensor, spread: Tensor) -> None:
        """Take in statistics of ``count`` values per channel."""
        if count == 0:
            return
        self.count += count
        share = count / self.count
        change = mean - self.mean
        self.mean = self.mean + share * change
        self.spread = self.spread + share * (spread - self.spread)
        if not self.averaged:
            self.spread = self.spread + share * (1 - share) * self.norm.second_moment(change[:, None])

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return the mean and spread as the layer would track them, had it seen everything at once."""
        spread = self.spread if self.averaged else self._observed(self.spread, self.count)
        if not (self.mean.isfinite().all() and (self.spread_name is None or spread.isfinite().all())):
            raise SettingError(
                f"the statistics of {type(self.layer).__name__} '{self.name}' over {self.count} values per channel are "
                "not finite: its inputs are not, or they are too few for a variance"
            )
        return self.mean, spread

    def _observed(self, second: Tensor, count: int) -> Tensor:
        # A tensor, which divides by zero without complaint: a single value has no variance, and may need none.
        return self.norm.observed_spread(second, second.new_tensor(count))


def _observe(network: nn.Module, inputs: list[_LayerInputs], stack: ExitStack) -> None:
    """Let ``inputs`` see what the layers are given and the layers normalize by batch, until ``stack`` is closed."""

    def replace(owner: Any, name: str, value: Any) -> None:
        stack.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)

    # Compiled code would not look for hooks anew.
    stack.enter_context(torch.compiler.set_stance("force_eager"))
    for module in network.modules():
        replace(module, "training", False)
    for seen in inputs:
        # In evaluation, norms without running statistics take those of the batch: they have none that could move.
        replace(seen.layer, "track_running_stats", False)
        replace(seen.layer, "running_mean", None)
        if seen.spread_name is not None:
            replace(seen.layer, seen.spread_name, None)
        stack.enter_context(seen.layer.register_forward_pre_hook(seen.see, with_kwargs=True))


def _pool_processes(inputs: list[_LayerInputs], number: int) -> int:
    """Merge what all processes have seen, in the same order on each; returns how many batches that is."""
    own = number, [(seen.count, seen.mean.cpu(), seen.spread.cpu()) for seen in inputs]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, own)
    numbers, parts = zip(*gathered, strict=True)
    for seen, *statistics in zip(inputs, *parts, strict=True):
        device = seen.mean.device
        seen.clear()
        for count, mean, spread in statistics:
            seen.merge(count, mean.to(device), spread.to(device))
    return sum(numbers)


def _wide(x: Tensor) -> Tensor:
    # Apple's GPUs have no float64.
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)

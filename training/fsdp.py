"""FSDP2: each process keeps a share of the weights, their gradients and what the optimizer knows of them."""

import copy
import math
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import StochasticWeightAveraging, WeightAveraging
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, StrategyRegistry
from pytorch_lightning.trainer.states import TrainerStatus
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from norms.errors import SettingError
from norms.pooling import whole

AVERAGES = (StochasticWeightAveraging, WeightAveraging)
"""Callbacks that copy a module."""


class FSDP2Strategy(DDPStrategy):
    """Train as DDP does, with networks that torch's ``fully_shard`` has distributed over the processes, block by block.

    The networks are those that the module's attribute ``distributed`` names, or else all children with weights. All
    weights of a block are there while it is computed, and with ``penalties`` until the end of the backward pass. The
    module is whole until the training is set up and after its end, and so are checkpoints, which any other strategy
    goes on from. Lightning's ``ModelParallelStrategy`` takes the states of such for those of other parameters where an
    optimizer has groups, and leaves norms unsynchronized.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._plain: dict[str, nn.Module] = {}
        self._kept: list[Any] = []

    def configure_ddp(self) -> None:
        """Distribute the networks, which DDP would wrap."""
        module: Any = self.lightning_module
        check_fsdp2(module.trainer, module)
        # What differentiates gradients, or reads weights between forward and backward pass, would find them gone.
        keep = any(getattr(module, "penalties", {}).values())
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), 0)
        for name, network in _distributed(module).items():
            self._plain[name] = _without_weights(network)
            # Numbers cannot be cut into shares.
            numbers = {parameter for parameter in network.parameters() if not parameter.ndim}
            for parameter in network.parameters():
                parameter.data = parameter.data.contiguous()
            parts: list[Any] = [*_blocks(network), network]
            for part in parts:
                fully_shard(part, mesh=mesh, reshard_after_forward=not keep, ignored_params=numbers)
                part.set_reshard_after_backward(not keep, recurse=False)
            self._kept += parts if keep else []
        for parameter in module.parameters():
            if parameter.requires_grad and not isinstance(parameter, DTensor):
                parameter.register_post_accumulate_grad_hook(_average_gradient)
        # None of normlab's networks changes in place what one of its blocks has returned.
        warnings.filterwarnings(
            "ignore", r"FSDP2-wrapped module \(FSDP\w*(Seed|Discriminator|TransformerNet)\) returned a view"
        )

    def post_backward(self, closure_loss: Tensor) -> None:
        """Take back the weights that penalties have needed until now."""
        for part in self._kept:
            part.reshard()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Give all processes the buffers of the first, as DDP does."""
        self._share_buffers()

    def on_validation_start(self) -> None:
        """Likewise."""
        self._share_buffers()

    def _share_buffers(self) -> None:
        module: Any = self.lightning_module
        networks = [module.get_submodule(name) for name in self._plain]
        # Those of other types are constants and counts, which are alike.
        buffers = [each for network in networks for each in network.buffers() if each.is_floating_point()]
        if buffers:
            joined = torch.cat([buffer.flatten() for buffer in buffers])
            dist.broadcast(joined, 0)
            for buffer, values in zip(buffers, joined.split([each.numel() for each in buffers]), strict=True):
                buffer.copy_(values.view_as(buffer))

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Show the first process whole networks, such as one that is not distributed has; all have to call this."""
        module: Any = self.lightning_module
        distributed = {name: module.get_submodule(name) for name in self._plain}
        for name, network in distributed.items():
            state = self._gathered(network.state_dict())
            if self.is_global_zero:
                shown = copy.deepcopy(self._plain[name])
                shown.load_state_dict(state, assign=True)
                for part, other in zip(shown.modules(), network.modules(), strict=True):
                    part.training = other.training
                module.set_submodule(name, shown.to(self.root_device))
        try:
            yield
        finally:
            for name, network in distributed.items():
                module.set_submodule(name, network)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the whole state in the first process, and nothing in others."""
        return self._gathered(super().lightning_module_state_dict())

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Likewise an optimizer's."""
        return self._gathered(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        """Take over each process's share of a whole state."""
        super().load_optimizer_state_dict(checkpoint)
        for parameter, state in (pair for optimizer in self.optimizers for pair in optimizer.state.items()):
            for name, value in state.items():
                if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[name] = distribute_tensor(value, parameter.device_mesh, parameter.placements)

    def teardown(self) -> None:
        """Leave the module whole; with weights, if the training has come to its end in all processes."""
        module: Any = self.lightning_module
        for name, plain in self._plain.items():
            finished = module.trainer.state.status != TrainerStatus.INTERRUPTED
            state = module.get_submodule(name).state_dict()
            shares = {key: value for key, value in state.items() if isinstance(value, DTensor)}
            # Processes that were interrupted may be alone.
            missing = {key: torch.full(value.shape, math.nan, dtype=value.dtype) for key, value in shares.items()}
            plain.load_state_dict(
                state | ({key: whole(v).cpu() for key, v in shares.items()} if finished else missing), assign=True
            )
            module.set_submodule(name, plain)
        if self._plain:
            self.optimizers, self._plain, self._kept = [], {}, []
        super().teardown()

    def _gathered(self, state: Any) -> dict[str, Any]:
        """Return a state of whole tensors on the CPU in the first process, tensor by tensor."""
        keep = self.is_global_zero

        def gather(tensor: Tensor) -> Tensor | None:
            gathered = whole(tensor)
            return gathered.detach().to("cpu", copy=True) if keep else None

        found = apply_to_collection(dict(state), Tensor, gather)
        return found if keep else {}


StrategyRegistry.register("fsdp2", FSDP2Strategy, description="FSDP2: weights and optimizers distributed")


def check_fsdp2(trainer: Trainer, module: Any) -> None:
    """Refuse what does not work with weights that are distributed, and other strategies that distribute them.

    Raises:
        SettingError: If the trainer or the module is set to such.
    """
    if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
        raise SettingError(f"trainer.strategy: take fsdp2 in the place of {type(trainer.strategy).__name__}")
    if not isinstance(trainer.strategy, FSDP2Strategy):
        return
    options = [f"model.init_args.{name}" for name in ("add_to", "compile", "data_init") if module.hparams.get(name)]
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    averages = [type(each).__name__ for each in callbacks if isinstance(each, AVERAGES)]
    half = ["trainer.precision: 16-mixed"] if trainer.precision == "16-mixed" else []
    networks = _distributed(module)
    for name, network in networks.items():
        if type(network).forward is nn.Module.forward:
            raise SettingError(f"distributed: {name} is no network, since {type(network).__name__} has no forward")
        if any(name.startswith(f"{other}.") for other in networks):
            raise SettingError(f"distributed: {name} is part of another network that is named there")
    shares = {each for network in networks.values() for each in network.parameters() if each.ndim}
    others = any(each.requires_grad and each not in shares for each in module.parameters())
    clip = ["model.init_args.gradient_clip"] if module.hparams.get("gradient_clip") else []
    clip += ["trainer.gradient_clip_val"] if trainer.gradient_clip_val else []
    for setting in (*options, *averages, *half, *(clip if others else [])):
        raise SettingError(f"{setting} does not work with trainer.strategy: fsdp2, but with ddp")


def whole_networks(trainer: Trainer) -> AbstractContextManager[None]:
    """Show the first process whole networks, see :meth:`FSDP2Strategy.whole`, if they are distributed."""
    strategy = trainer.strategy
    return strategy.whole() if isinstance(strategy, FSDP2Strategy) else nullcontext()


def _distributed(module: Any) -> dict[str, nn.Module]:
    """Return the networks of a module that are distributed, by their names."""
    children = [name for name, part in module.named_children() if any(True for _ in part.parameters())]
    names, parts = getattr(module, "distributed", children), dict(module.named_modules())
    for name in (name for name in names if name not in parts):
        raise SettingError(f"distributed: {type(module).__name__} has no part {name!r}")
    return {name: parts[name] for name in names}


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts of a network that are called one after the other, also those within containers."""
    for child in network.children():
        if isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            yield from _blocks(child)
        elif any(parameter.ndim for parameter in child.parameters()):
            yield child


def _without_weights(network: nn.Module) -> nn.Module:
    """Copy a network, but with parameters that take no memory."""
    bare = {
        id(each): nn.Parameter(torch.empty_like(each, device="meta"), each.requires_grad)
        for each in network.parameters()
    }
    return copy.deepcopy(network, bare)


def _average_gradient(parameter: Tensor) -> None:
    assert parameter.grad is not None
    dist.all_reduce(parameter.grad.div_(dist.get_world_size()))

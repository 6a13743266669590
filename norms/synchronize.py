"""Batch statistics over all processes, for a whole model."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .base import MomentNorm
from .conversion import BATCH_NORMS, NATIVE_BATCH_NORMS, carry_state, replace_modules


def synchronize_(model: nn.Module, process_group: Any = None) -> nn.Module:
    """Let every norm of ``model`` take its batch statistics over all processes, or a group, in training, in place.

    Norms of this package get ``sync=True`` and ``process_group``. ``torch.nn.BatchNorm1d``, ``2d``, ``3d`` give way to
    :class:`norms.BatchNorm1d`, ``2d`` and ``3d``, which hold the same parameters and buffers, so that optimizers and
    checkpoints go on. Call it before ``DistributedDataParallel`` or ``torch.compile`` wraps the model. Without
    ``torch.distributed`` nothing changes but the classes.

    Classes derived from BatchNorm, whose own forward would be lost, are left as they are, with a warning; a
    ``SyncBatchNorm`` stays one. Returned is the model, or what replaces it if it is a ``torch.nn.BatchNorm`` itself.
    """
    known = (*NATIVE_BATCH_NORMS, nn.SyncBatchNorm)
    derived = {type(m).__name__ for m in model.modules() if isinstance(m, _BatchNorm) and type(m) not in known}
    if derived:
        reason = "a class derived from BatchNorm may be another norm"
        warnings.warn(f"not synchronized, since {reason}: {', '.join(sorted(derived))}", stacklevel=2)
    return _set_sync(_replace_classes(model, NATIVE_BATCH_NORMS, BATCH_NORMS), True, process_group)


def desynchronize_(model: nn.Module) -> nn.Module:
    """Let every norm of ``model`` take its batch statistics per process, in place.

    This is the way back of :func:`synchronize_`. Each :class:`norms.BatchNorm1d`, ``2d`` and ``3d`` gives way to that
    of ``torch.nn``, whether it was one before or not: without ``sync`` they are the same function. A
    ``torch.nn.SyncBatchNorm`` stays one. Returned is the model, or what replaces it.
    """
    return _replace_classes(_set_sync(model, False, None), BATCH_NORMS, NATIVE_BATCH_NORMS)


def _set_sync(model: nn.Module, sync: bool, process_group: Any) -> nn.Module:
    for module in model.modules():
        if isinstance(module, MomentNorm) and module.uses_batch:
            module.sync, module.process_group = sync, process_group
    return model


def _replace_classes(
    model: nn.Module, old: Sequence[type[nn.Module]], new: Sequence[Callable[..., nn.Module]]
) -> nn.Module:
    classes = dict(zip(old, new, strict=True))
    chosen = [module for module in model.modules() if type(module) in classes]
    return replace_modules(model, {norm: _rebuilt(norm, classes[type(norm)]) for norm in chosen})


def _rebuilt(norm: Any, build: Callable[..., nn.Module]) -> nn.Module:
    affine, tracked = norm.weight is not None, norm.running_mean is not None
    replacement = build(
        norm.num_features, eps=norm.eps, momentum=norm.momentum, affine=affine, track_running_stats=tracked
    )
    carry_state(norm, replacement)
    return replacement

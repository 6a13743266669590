"""Layers as single nodes of graphs that ``torch.fx`` traces."""

from typing import Any

from torch import Tensor, nn

from .errors import SettingError


def trace_call(layer: nn.Module, x: Any, *args: Any) -> Tensor:
    """Record a call of ``layer`` with a ``torch.fx.Proxy`` as one node, as tracers do with torch's own layers.

    What it computes depends on shapes, mode and buffers, which a trace does not know.
    """
    if layer is x.tracer.root:
        name = type(layer).__name__
        raise SettingError(
            f"torch.fx traces {name} as one node of a module that holds it: trace torch.nn.Sequential(layer), or a "
            "module of yours around it"
        )
    proxy: Tensor = x.tracer.create_proxy("call_module", x.tracer.path_of_module(layer), (x, *args), {})
    return proxy

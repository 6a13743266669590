"""Layers as single nodes of graphs that ``torch.fx`` traces."""

from typing import Any

from torch import nn


def trace_call(layer: nn.Module, x: Any, *args: Any) -> Any:
    """Record a call of ``layer`` with a ``torch.fx.Proxy`` as one node, as tracers do with torch's own layers.

    What it computes depends on shapes, mode and buffers, which a trace does not know.
    """
    return x.tracer.create_proxy("call_module", x.tracer.path_of_module(layer), (x, *args), {})

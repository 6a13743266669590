"""Normalization layers for PyTorch, among them those that learn how to normalize."""

from norms.base import MixingNorm, MomentNorm
from norms.batch import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    MeanOnlyBatchNorm1d,
    MeanOnlyBatchNorm2d,
    MeanOnlyBatchNorm3d,
)
from norms.batch_instance import BatchInstanceNorm1d, BatchInstanceNorm2d, BatchInstanceNorm3d
from norms.batch_renorm import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from norms.conditional import ConditionalNorm
from norms.decorrelated import DecorrelatedBatchNorm1d, DecorrelatedBatchNorm2d, DecorrelatedBatchNorm3d
from norms.layer_pixel import LayerNormPixel
from norms.mixing import MixingValue, mixing_layers, mixing_values, param_groups, project_
from norms.registry import build, names
from norms.switchable import STATISTICS, SwitchableNorm1d, SwitchableNorm2d, SwitchableNorm3d

__all__ = [
    "STATISTICS",
    "BatchInstanceNorm1d",
    "BatchInstanceNorm2d",
    "BatchInstanceNorm3d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "BatchRenorm3d",
    "ConditionalNorm",
    "DecorrelatedBatchNorm1d",
    "DecorrelatedBatchNorm2d",
    "DecorrelatedBatchNorm3d",
    "LayerNormPixel",
    "MeanOnlyBatchNorm1d",
    "MeanOnlyBatchNorm2d",
    "MeanOnlyBatchNorm3d",
    "MixingNorm",
    "MixingValue",
    "MomentNorm",
    "SwitchableNorm1d",
    "SwitchableNorm2d",
    "SwitchableNorm3d",
    "build",
    "mixing_layers",
    "mixing_values",
    "names",
    "param_groups",
    "project_",
]

"""Normalization layers for PyTorch, among them those that learn how to normalize."""

from . import functional
from .adaptive import AdaptiveInstanceNorm
from .base import MixingNorm, MomentNorm
from .batch import (
    BatchNorm,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    MeanOnlyBatchNorm,
    MeanOnlyBatchNorm1d,
    MeanOnlyBatchNorm2d,
    MeanOnlyBatchNorm3d,
)
from .batch_instance import BatchInstanceNorm, BatchInstanceNorm1d, BatchInstanceNorm2d, BatchInstanceNorm3d
from .batch_renorm import BatchRenorm, BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from .conditional import ConditionalNorm, NormPerCondition
from .conversion import convert
from .decorrelated import (
    DecorrelatedBatchNorm,
    DecorrelatedBatchNorm1d,
    DecorrelatedBatchNorm2d,
    DecorrelatedBatchNorm3d,
)
from .fixing import fixed_statistics
from .kinds import STATISTICS, MixingKind
from .layer_pixel import LayerNormPixel
from .mixing import (
    LayerReport,
    MixingValue,
    Report,
    binarize_,
    freeze_mixing_,
    mixing_layers,
    mixing_values,
    param_groups,
    project_,
    report,
)
from .parametrized import fold_
from .pruning import Plain, SplitNorm, prune, prune_as
from .recalibration import recalibrate
from .registry import build, names, register
from .spectral import power_iterate_, sigmas, spectral_norm
from .switchable import SwitchableNorm, SwitchableNorm1d, SwitchableNorm2d, SwitchableNorm3d
from .synchronize import desynchronize_, synchronize_
from .weight import initialize_weight_norm_, weight_norm

__all__ = [
    "STATISTICS",
    "AdaptiveInstanceNorm",
    "BatchInstanceNorm",
    "BatchInstanceNorm1d",
    "BatchInstanceNorm2d",
    "BatchInstanceNorm3d",
    "BatchNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchRenorm",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "BatchRenorm3d",
    "ConditionalNorm",
    "DecorrelatedBatchNorm",
    "DecorrelatedBatchNorm1d",
    "DecorrelatedBatchNorm2d",
    "DecorrelatedBatchNorm3d",
    "LayerNormPixel",
    "LayerReport",
    "MeanOnlyBatchNorm",
    "MeanOnlyBatchNorm1d",
    "MeanOnlyBatchNorm2d",
    "MeanOnlyBatchNorm3d",
    "MixingKind",
    "MixingNorm",
    "MixingValue",
    "MomentNorm",
    "NormPerCondition",
    "Plain",
    "Report",
    "SplitNorm",
    "SwitchableNorm",
    "SwitchableNorm1d",
    "SwitchableNorm2d",
    "SwitchableNorm3d",
    "binarize_",
    "build",
    "convert",
    "desynchronize_",
    "fixed_statistics",
    "fold_",
    "freeze_mixing_",
    "functional",
    "initialize_weight_norm_",
    "mixing_layers",
    "mixing_values",
    "names",
    "param_groups",
    "power_iterate_",
    "project_",
    "prune",
    "prune_as",
    "recalibrate",
    "register",
    "report",
    "sigmas",
    "spectral_norm",
    "synchronize_",
    "weight_norm",
]

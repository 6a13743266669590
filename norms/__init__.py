"""Normalization layers for PyTorch, among them those that learn how to normalize."""

from inspect import ismodule as _ismodule

from . import functional as functional
from .base import MixingNorm as MixingNorm
from .base import MomentNorm as MomentNorm
from .batch import BatchNorm as BatchNorm
from .batch import BatchNorm1d as BatchNorm1d
from .batch import BatchNorm2d as BatchNorm2d
from .batch import BatchNorm3d as BatchNorm3d
from .batch import MeanOnlyBatchNorm as MeanOnlyBatchNorm
from .batch import MeanOnlyBatchNorm1d as MeanOnlyBatchNorm1d
from .batch import MeanOnlyBatchNorm2d as MeanOnlyBatchNorm2d
from .batch import MeanOnlyBatchNorm3d as MeanOnlyBatchNorm3d
from .batch_instance import BatchInstanceNorm as BatchInstanceNorm
from .batch_instance import BatchInstanceNorm1d as BatchInstanceNorm1d
from .batch_instance import BatchInstanceNorm2d as BatchInstanceNorm2d
from .batch_instance import BatchInstanceNorm3d as BatchInstanceNorm3d
from .batch_renorm import BatchRenorm as BatchRenorm
from .batch_renorm import BatchRenorm1d as BatchRenorm1d
from .batch_renorm import BatchRenorm2d as BatchRenorm2d
from .batch_renorm import BatchRenorm3d as BatchRenorm3d
from .conditional import ConditionalNorm as ConditionalNorm
from .conversion import convert as convert
from .decorrelated import DecorrelatedBatchNorm as DecorrelatedBatchNorm
from .decorrelated import DecorrelatedBatchNorm1d as DecorrelatedBatchNorm1d
from .decorrelated import DecorrelatedBatchNorm2d as DecorrelatedBatchNorm2d
from .decorrelated import DecorrelatedBatchNorm3d as DecorrelatedBatchNorm3d
from .kinds import STATISTICS as STATISTICS
from .kinds import MixingKind as MixingKind
from .layer_pixel import LayerNormPixel as LayerNormPixel
from .mixing import LayerReport as LayerReport
from .mixing import MixingValue as MixingValue
from .mixing import Report as Report
from .mixing import freeze_mixing_ as freeze_mixing_
from .mixing import mixing_layers as mixing_layers
from .mixing import mixing_values as mixing_values
from .mixing import param_groups as param_groups
from .mixing import project_ as project_
from .mixing import report as report
from .mixing import snap_ as snap_
from .parametrized import fold_ as fold_
from .recalibration import recalibrate as recalibrate
from .registry import build as build
from .registry import names as names
from .registry import register as register
from .spectral import power_iterate_ as power_iterate_
from .spectral import sigmas as sigmas
from .spectral import spectral_norm as spectral_norm
from .switchable import SwitchableNorm as SwitchableNorm
from .switchable import SwitchableNorm1d as SwitchableNorm1d
from .switchable import SwitchableNorm2d as SwitchableNorm2d
from .switchable import SwitchableNorm3d as SwitchableNorm3d
from .synchronize import desynchronize_ as desynchronize_
from .synchronize import synchronize_ as synchronize_
from .weight import initialize_weight_norm_ as initialize_weight_norm_
from .weight import weight_norm as weight_norm

# Submodules end up in the namespace as well; of them functional alone is meant.
__all__ = [
    name for name, value in globals().items() if name[0] != "_" and (name == "functional" or not _ismodule(value))
]

"""Norms with batch statistics whose running averages are as slow as each other's, and fit trainings of few steps.

By their own defaults :class:`torch.nn.BatchNorm2d` averages over about ten batches, which at two images each are hardly
any, and batch renormalization over a hundred, which a short training does not have. To compare norms, and not averages,
all of them average over about 33 batches here.
"""

from torch import nn

import norms

MOMENTUM = 0.03

CORRECTED_AFTER = 50
"""Batches after which batch renormalization corrects within its final limits, instead of 40,000."""


def batch(num_features: int) -> nn.Module:
    """Make batch normalization."""
    return nn.BatchNorm2d(num_features, momentum=MOMENTUM)


def batch_renorm(num_features: int) -> nn.Module:
    """Make batch renormalization."""
    return norms.BatchRenorm2d(num_features, momentum=MOMENTUM, schedule_steps=CORRECTED_AFTER)


def switchable(num_features: int) -> nn.Module:
    """Make switchable normalization."""
    return norms.SwitchableNorm2d(num_features, momentum=MOMENTUM)

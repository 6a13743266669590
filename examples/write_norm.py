"""Write a norm that learns how to normalize: each channel learns how much contrast to erase.

y = (x - mean) / (var + eps)^(erase / 2) * gamma + beta; 1 is instance normalization, 0 centers alone.
"""

import torch
from torch import Tensor, nn

import norms
from norms.formula import Formula, Gradients, Moments


class ContrastFormula(Formula):
    """Write the norm as a function from the moments of planes to scale and offset, with its derivative."""

    per_sample = True

    def coefficients(self, moments: Moments, *mixing: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scale and offset; a power is a variance plus eps."""
        scale = moments.power ** (-mixing[0] / 2)
        return scale, torch.zeros_like(scale)

    def gradients(self, moments: Moments, grad_scale: Tensor, grad_offset: Tensor, *mixing: Tensor) -> Gradients:
        """Differentiate them; the gradient for a power is wanted times -2."""
        by_log_power = grad_scale * moments.power ** (-mixing[0] / 2)
        by_erase = -0.5 * (by_log_power * moments.power.log()).sum(0)
        return Gradients(power=by_log_power * mixing[0] / moments.power, mixing=(by_erase,))


class ContrastNorm2d(norms.MixingNorm):
    """Normalize by instance, and learn how much contrast to erase."""

    kinds = (norms.MixingKind("erase", neutral=1.0, lr_multiplier=10),)
    spatial_dims, uses_batch = 2, False

    def __init__(self, num_features: int, **options: float) -> None:
        super().__init__(num_features, **options)
        self.erase = nn.Parameter(torch.ones(num_features))
        self.reset_parameters()

    def _formula(self) -> Formula:
        return ContrastFormula(uses_batch=False)

    def _mixing(self) -> tuple[Tensor, ...]:
        return (self.erase,)


torch.manual_seed(0)
norm = ContrastNorm2d(3)
x = torch.randn(4, 3, 8, 8) * torch.rand(4, 3, 1, 1)
torch.testing.assert_close(norm(x), nn.InstanceNorm2d(3)(x))
print("where it starts it is instance normalization")
assert torch.autograd.gradcheck(norm.double(), x[:2, :, :2, :2].double().requires_grad_())
print("its derivative is right")

# Optimizer groups, reports, logs, W&B and analyze.py follow from `kinds`.
for group in norms.param_groups(norm, lr=0.01):
    print(f"group {group['name']} has the learning rate {group['lr']:g}")
print(norms.report(norm))

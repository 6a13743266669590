"""A style term of means and standard deviations, which needs no correlations of channels."""

from torch import Tensor

from lightning_modules.losses.perceptual import Features, LayerTerm
from norms.adaptive import AdaptiveInstanceNorm

_STATISTICS = AdaptiveInstanceNorm()


class MeanStd(LayerTerm):
    r"""Compare the mean and standard deviation of each channel with the style picture's.

    .. math:: R_l \left( e(\mu(\phi_l(y)), \mu(\phi_l(s))) + e(\sigma(\phi_l(y)), \sigma(\phi_l(s))) \right)

    with e and R of the loss's scaling, and statistics as :class:`norms.AdaptiveInstanceNorm` takes them.

    Args:
        weight: Factor of the term in the loss, at least 0.
        layers: Layers of the loss network, at least one.
        scaling: ``relative`` or ``published``, see :func:`usual_terms`.

    Source:
        Li et al., Demystifying Neural Style Transfer, IJCAI 2017, section 4.2; Huang & Belongie, Arbitrary Style
        Transfer in Real-time with Adaptive Instance Normalization, ICCV 2017, equation 13.
    """

    name = "style"

    def set_style(self, style: Features | None) -> None:
        """Measure the style picture, or one for each image, once for all."""
        self.compares_photo = style is None
        for index, layer in enumerate(self.layers):
            mean, deviation = (None, None) if style is None else _STATISTICS.statistics(style[layer])
            self.register_buffer(f"mean{index}", mean, persistent=False)
            self.register_buffer(f"deviation{index}", deviation, persistent=False)

    def forward(self, image: Tensor, found: Features, wanted: Features) -> Tensor:
        """Compute the error of means plus that of standard deviations."""
        means, deviations = [], []
        for index, layer in enumerate(self.layers):
            mean, deviation = _STATISTICS.statistics(found[layer])
            if self.compares_photo:
                target = _STATISTICS.statistics(wanted[layer])
            else:
                target = self.get_buffer(f"mean{index}"), self.get_buffer(f"deviation{index}")
            means.append((mean, target[0]))
            deviations.append((deviation, target[1]))
        return self._error(means) + self._error(deviations)

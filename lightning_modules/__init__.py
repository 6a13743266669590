"""What trains: style transfer, generative adversarial networks, a classifier and distillation, as Lightning modules."""

# ruff: noqa: E402, since other people's packages of our names are refused before they are imported

import normlab

normlab.check_packages()
from lightning_modules.any_style import AnyStyle
from lightning_modules.classifier import Classifier
from lightning_modules.distillation import Distillation
from lightning_modules.gan import GAN
from lightning_modules.style_transfer import StyleTransfer

__all__ = ["GAN", "AnyStyle", "Classifier", "Distillation", "StyleTransfer"]

"""The callbacks that look at a training and log what they see, each with options under its name."""

from pytorch_lightning import Callback

from training.callbacks.activations import ActivationMonitor
from training.callbacks.generation_metrics import GenerationMetrics
from training.callbacks.landscape import Landscape
from training.callbacks.lipschitz import LipschitzMonitor
from training.callbacks.mixing import MixingValues
from training.callbacks.samples import SampleImages
from training.callbacks.spectral import SpectralMonitor

MONITORS: dict[str, type[Callback]] = {
    "mixing": MixingValues,
    "samples": SampleImages,
    "metrics": GenerationMetrics,
    "spectral": SpectralMonitor,
    "activations": ActivationMonitor,
    "landscape": Landscape,
    "lipschitz": LipschitzMonitor,
}
"""By the name of their options, in the order in which they are called. None of them changes what is learned."""

"""Perceptual losses as the settings of a training describe them."""

from collections.abc import Mapping
from typing import Any

from lightning_modules.losses.perceptual import PerceptualLoss, Term, split_layer, usual_terms
from lightning_modules.networks.loss_network import build_loss_network, default_layers
from norms.errors import SettingError
from norms.imports import resolve_callable


def build_loss(settings: Mapping[str, Any]) -> PerceptualLoss:
    """Make the loss of a style network from the settings of its module.

    Args:
        settings: Those of :class:`lightning_modules.StyleTransfer`.

    Raises:
        SettingError: If the loss network cannot be had, or a layer, weight or term is impossible.
    """
    customary = default_layers(settings["loss_network"])
    content_layers = settings["content_layers"] or customary.content
    style_layers = settings["style_layers"] or customary.style
    weights = {name: settings[name] for name in ("content_weight", "style_weight", "tv_weight")}
    terms = usual_terms(content_layers, style_layers, settings["loss_scaling"], **weights)
    terms += [build_term(description) for description in settings["terms"] or ()]
    layers = {split_layer(layer)[0] for term in terms for layer in term.layers}
    return PerceptualLoss(build_loss_network(settings["loss_network"], layers, settings["weights"]), terms)


def build_term(description: Mapping[str, Any]) -> Term:
    """Make a term as YAML describes it.

    Args:
        description: ``class_path``, such as ``mypackage.MyTerm``, and perhaps ``init_args``.

    Raises:
        SettingError: If there is no such class, or it does not take the arguments.
    """
    if not set(description) <= {"class_path", "init_args"} or not isinstance(description.get("class_path"), str):
        raise SettingError(f"a term of the loss needs a class_path, and may have init_args, got {dict(description)}")
    path, arguments = description["class_path"], description.get("init_args") or {}
    try:
        term = resolve_callable("loss term", path)(**arguments)
    except TypeError as error:
        raise SettingError(f"loss term '{path}' cannot be made: {error}") from error
    if not isinstance(term, Term):
        raise SettingError(f"loss term '{path}' is no Term")
    return term

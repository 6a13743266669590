"""Which runs repeat each other: the settings that a training follows from, apart from its seeds."""

import re
from collections.abc import Mapping
from typing import Any

SEED = re.compile(r"seed_everything|(.*\.)?seed")

IRRELEVANT = re.compile(
    r"(name|runs_dir|ckpt_path|weights_only|_.*)"
    r"|(mixing|samples|checkpoint|spectral|activations|landscape|lipschitz|guard|metrics|wandb)\..*"
    r"|trainer\.(logger(\..*)?|log_every_n_steps|enable_progress_bar)"
)
"""Settings of how a run is recorded, which do not change what it learns."""


def settings_of(config: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """Return a configuration's settings without its seeds and without what does not change what is learned.

    Args:
        config: A nested configuration, as of ``config.yaml``.

    Returns:
        Pairs of a setting's dotted name and its value as text, the same for 10 and 10.0.
    """
    settings = flat(dict(config)).items()
    return frozenset((k, _plain(v)) for k, v in settings if not SEED.fullmatch(k) and not IRRELEVANT.fullmatch(k))


def seeds_of(config: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """Return all seeds of a configuration, as pairs of a dotted name and a text."""
    return frozenset((key, repr(value)) for key, value in flat(dict(config)).items() if SEED.fullmatch(key))


def flat(config: object, prefix: str = "") -> dict[str, object]:
    """Name every setting of a nested configuration by its dotted path."""
    if not isinstance(config, dict):
        return {prefix: config}
    items: dict[str, object] = {}
    for key, value in config.items():
        items |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return items


def _plain(value: object) -> str:
    # What W&B stores as 10 was 10.0 before.
    return f"{value:g}" if isinstance(value, float) else str(value)

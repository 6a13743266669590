"""Reading what the mixing values of trained networks became.

In a notebook::

    import mixing_analysis as mixing

    runs = mixing.read("runs/*")
    runs.table                     # every value: a row for each
    runs.compare("a", "b")         # layer by layer, with intervals over seeds
    runs.figure("rho_layers")
"""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mixing_analysis.interface import Runs

EXPECTED = "a run folder, a checkpoint (.ckpt, .pt, .safetensors), a W&B offline folder or wandb:ENTITY/PROJECT/RUN"
"""What can be read."""

FORMATS = ("csv", "html", "png", "svg", "pdf", "gif", "mp4")
"""What can be written: tables, the page, and figures; the last two hold films of the training."""

DEFAULT_FORMATS = FORMATS[:-1]
"""All but the video, which wants a package of its own."""


def read(
    *sources: str | PathLike[str] | Sequence[str | PathLike[str]],
    group: Mapping[str, str | Sequence[str]] | str | Sequence[str] = "",
    steps: str | int | Sequence[int] = "",
    layers: str | Sequence[str] = (),
) -> "Runs":
    """Read the learned mixing values of runs.

    Args:
        sources: Run folders, folders that hold runs (all below them are read), checkpoints, W&B offline folders,
            ``wandb:ENTITY/PROJECT/RUN``, patterns such as ``runs/*``, or lists of them.
        group: Which runs are averaged: the name of a setting, such as ``model.norm``, or of several; or from names of
            groups to their runs. By default those that differ in nothing but seeds.
        steps: Which steps, by default all: ``0:1000``, with an end left out ``500:``, or single ones.
        layers: Which layers, by default all: a pattern such as ``residual*``, or several.

    Returns:
        The runs.

    Raises:
        norms.errors.SettingError: If there is no run, or one that is named cannot be read.
    """
    from mixing_analysis.interface import Runs
    from mixing_analysis.selection import Selection, parse_steps

    each = [one for source in sources for one in ([source] if isinstance(source, str | PathLike) else source)]
    named = {name: _texts(members) for name, members in group.items()} if isinstance(group, Mapping) else {}
    by = () if isinstance(group, Mapping) else tuple(name for text in _texts(group) for name in text.split(",") if name)
    return Runs.read(Selection(_texts(each), named, by, parse_steps(",".join(_texts(steps))), _texts(layers)))


def _texts(values: object) -> tuple[str, ...]:
    """Return one value, or each of several, as text; none of them if it is nothing."""
    several = values if isinstance(values, Iterable) and not isinstance(values, str | PathLike) else [values]
    return tuple(str(value) for value in several if value not in (None, ""))

"""Which experiments there are, and the sweeps of each.

A page is a module of :mod:`experiments.pages` with a function ``page(runs)``. It may name its sweeps in ``SWEEPS``,
which are files of ``configs/experiments``; by default there is one, which is called as the page.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import normlab
from norms.errors import SettingError, unknown

if TYPE_CHECKING:
    from experiments.page import Page
    from experiments.reading import Runs

PAGES = Path(__file__).parent / "pages"
CONFIGS = normlab.ROOT / "configs" / "experiments"


@dataclass(frozen=True)
class Experiment:
    """Hold an experiment.

    Args:
        name: What it is called, and its page.
        sweeps: The files of its sweeps.
        page: What makes its page of its runs.
    """

    name: str
    sweeps: tuple[Path, ...]
    page: "Callable[[Runs], Page]"


def names() -> list[str]:
    """List the names of the experiments."""
    return sorted(file.stem for file in PAGES.glob("*.py") if not file.stem.startswith("_"))


def experiment(name: str) -> Experiment:
    """Return the experiment of a name.

    Raises:
        SettingError: If there is none, or one of its sweeps has no file.
    """
    if name not in names():
        raise unknown("experiment", name, names())
    module = import_module(f"experiments.pages.{name}")
    files = tuple(CONFIGS / f"{sweep}.yaml" for sweep in getattr(module, "SWEEPS", (name,)))
    for file in files:
        if not file.is_file():
            raise SettingError(f"experiment {name}: there is no file {file}")
    return Experiment(name, files, module.page)

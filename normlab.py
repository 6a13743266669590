"""The version and the commands of normlab, and a look at whether its packages are its own."""

import re
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path

__version__ = "0.1.0"

PACKAGES = ("norms", "data", "lightning_modules", "training", "stylizing", "sampling", "sweeping", "mixing_analysis")

ROOT = Path(__file__).resolve().parent


def train() -> int:
    """Train a model: the command ``normlab-train``."""
    return _run("training")


def stylize() -> int:
    """Repaint photos: the command ``normlab-stylize``."""
    return _run("stylizing")


def sample() -> int:
    """Draw images from a GAN: the command ``normlab-sample``."""
    return _run("sampling")


def sweep() -> int:
    """Train all runs of a sweep: the command ``normlab-sweep``."""
    return _run("sweeping")


def analyze() -> int:
    """See what norms have learned: the command ``normlab-analyze``."""
    return _run("mixing_analysis")


def _run(package: str) -> int:
    try:
        check_packages()
    except ImportError as error:
        print("error:", error, file=sys.stderr)
        return 2
    status: int = import_module(f"{package}.command").main()
    return status


def as_installed(command: str) -> str:
    """Rewrite a command such as ``python train.py fit`` for those who have no ``train.py``, but ``normlab-train``."""
    return command if (ROOT / "train.py").is_file() else re.sub(r"^python (\w+)\.py\b", r"normlab-\1", command)


def again(arguments: Sequence[str]) -> str:
    """Return the command that trains as a process of this command line does, given without the program."""
    return as_installed(shlex.join(["python", "train.py", *arguments]))


def check_packages() -> None:
    """Refuse to go on if somebody else's module is found under the name of one of normlab's packages.

    Raises:
        ImportError: If there is such a module, with its file.
    """
    for name in PACKAGES:
        own = ROOT / name
        # Without a folder of our own, the package is one that is installed by itself, as norms can be.
        if own.is_dir() and (found := _found(name)) != own:
            raise ImportError(f"{found} hides {own} of normlab: rename it, or work in another folder")


def _found(name: str) -> Path:
    """Return the folder of the package that ``name`` means, or the file of the module."""
    module = sys.modules.get(name)
    spec = module.__spec__ if module else PathFinder.find_spec(name)
    if spec is None:  # an editable installation has a finder of its own
        return ROOT / name
    places = [*(spec.submodule_search_locations or ()), spec.origin]
    return Path(str(places[0])).resolve()

"""Model cards for the Hugging Face Hub: what those of all networks have in common."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from torch import nn

import norms
from norms.errors import SettingError
from training.exporting import NOT_STATED
from training.files import replacing

LICENCES = ("apache-2.0", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "mit", "unlicense")
"""Some of the licences that the Hub knows, by its names; any other one is written as it is."""


def write_card(folder: Path, matter: Mapping[str, object], lines: Sequence[str]) -> None:
    """Write ``README.md``, with the folder's name for its title.

    Args:
        folder: Where to; it exists.
        matter: What the Hub reads, see :func:`front_matter`.
        lines: The text.

    Raises:
        SettingError: If it cannot be written.
    """
    head = ["---", yaml.safe_dump(dict(matter), sort_keys=False).strip(), "---", "", f"# {folder.resolve().name}", ""]
    try:
        with replacing(folder / "README.md") as partial:
            partial.write_text("\n".join([*head, *lines]), encoding="utf-8")
    except OSError as error:
        raise SettingError(f"cannot write {folder / 'README.md'}: {error.strerror or error}") from error


def front_matter(told: Mapping[str, str], norm: str, task: str, tags: Sequence[str]) -> dict[str, object]:
    """Return what the Hub reads of a card: licence, library, task and tags.

    Args:
        told: What the network's header says of its licence, beside other things.
        norm: The network's norm, a name or class path.
        task: What the network does, as the Hub calls it.
        tags: Further tags.
    """
    licence = told.get("licence", "")
    known = licence.lower().replace(" ", "-")
    known = {"cc0": "cc0-1.0"}.get(known, known)
    found: dict[str, object] = {"license": known}
    if known not in LICENCES:
        found = {"license": "other", "license_name": licence} if licence not in ("", NOT_STATED) else {}
    norm_tag = f"{norm.rpartition('.')[2].replace('_', '-')}-normalization"
    return {**found, "library_name": "normlab", "pipeline_tag": task, "tags": [*tags, "safetensors", norm_tag]}


def settings(facts: Mapping[str, object], header: Mapping[str, str]) -> list[str]:
    """Return the section of a card on settings, and what the header says of training, data, licence and versions.

    Args:
        facts: Values by name; those that are None are left out.
        header: See :func:`training.network_files.header_of`.
    """
    writer, training = json.loads(header["normlab"]), json.loads(header.get("training", "{}"))
    facts = {
        **facts,
        "size of the training images, in pixels": training.get("image_size"),
        "training steps": training.get("steps"),
        "training data": header.get("data"),
        "licence of the weights": header.get("licence"),
        "written by": f"normlab {writer['version']}, torch {writer['torch']}",
    }
    rows = [[title, str(value)] for title, value in facts.items() if value is not None]
    return ["## Settings", "", *table([["setting", "value"], *rows]), ""]


def learned(network: nn.Module) -> list[str]:
    """Return the section of a card on what a network's norms have learned; nothing if they learn nothing."""
    report = norms.report(network)
    if not report:
        return []
    kinds = dict.fromkeys(f"`{kind.name}`" for layer in report for kind in layer.kinds)
    said = f"The values of {' and '.join(kinds)}, layer by layer, as `norms.report` sums them up:"
    return ["## What the norms have learned", "", said, "", "```", str(report), "```", ""]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, of which the first row is the head."""
    lines = [f"| {' | '.join(' '.join(cell.split()).replace('|', '&#124;') for cell in row)} |" for row in rows]
    return [lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:]]

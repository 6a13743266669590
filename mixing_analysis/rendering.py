"""The single file that the page of a report is: its parts, and its words about each kind of mixing values."""

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from mixing_analysis.kinds import families, word
from norms.kinds import MixingKind

MODULES = (
    *("numbers", "values", "series", "preference", "elements", "plots", "channels", "training", "relations", "places"),
    *("weights", "outcomes", "metrics"),
    *("differences", "ablation", "binarized", "pictures", "controls", "saving", "drawing", "overview", "reading"),
    "start",
)
"""The modules of the page's script, each behind those that it needs while it is loaded."""

HEADINGS = {"rho": "Gates of batch-instance normalization", "switch": "Weights of switchable normalization"}

FRACTIONS = {2: "½", 3: "⅓ and ⅔", 4: "¼, ½ and ¾"}


def render(contents: Mapping[str, Any], kinds: Sequence[MixingKind], tables: Sequence[str]) -> str:
    """Write the page.

    Args:
        contents: What it shows, see :func:`mixing_analysis.report.contents`.
        kinds: The kinds of values in it.
        tables: The names of the files beside the page that hold all values.

    Returns:
        Its HTML, which needs nothing but a browser.
    """
    text = json.dumps(contents, allow_nan=False, separators=(",", ":"))
    gates = [kind for kind in kinds if kind.per_channel]
    sections = [_fill("channels.html", _of_gates(kind, contents["channels"][kind.name]["published"])) for kind in gates]
    sections += [_fill("weights.html", _of_weights(name, own)) for name, own in families(kinds).items()]
    introductions = [_introduction(kind) for kind in kinds if kind.name not in ("rho", "mean_weight", "var_weight")]
    return _fill(
        "page.html",
        {
            "css": part("page.css"),
            "js": script(),
            "introductions": "\n".join(introductions),
            "sections": "\n".join(sections),
            "tables": _beside(tables),
            # Names come from folders and checkpoints: none may end the script element that the values are in.
            "data": text.replace("<", "\\u003c"),
        },
    )


def part(name: str) -> str:
    """Read a file that the page is made of."""
    return resources.files("mixing_analysis").joinpath("page", name).read_text("utf-8")


def script() -> str:
    """Join the modules of the page's script to one that a single file can hold.

    Their imports, exports and types are for tools, which check each module by itself: joined, all have one scope.
    """
    text = "\n".join(part(f"{name}.js") for name in MODULES)
    text = re.sub(r"^(?:import [^;]*;| */\*\*.*?\*/)\n", "", text, flags=re.MULTILINE | re.DOTALL)
    return '"use strict";\n\n' + re.sub(r"^export ", "", text, flags=re.MULTILINE)


def _beside(tables: Sequence[str]) -> str:
    if not tables:
        return "No table of the numbers was asked for"
    return f"Every number is in {' and '.join(f'<code>{escape(name)}</code>' for name in tables)} beside this page"


def _fill(name: str, words: Mapping[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda match: words[match[1]], part(name))


def _of_gates(kind: MixingKind, published: Mapping[str, Any] | None) -> dict[str, str]:
    low, high = kind.end_names or ("", "")
    below, above = kind.ends
    dashed = "" if published is None else " Dashed: about the shares in {subject} ({source}).".format_map(published)
    return {
        "name": escape(kind.name),
        "heading": escape(HEADINGS.get(kind.name, kind.title)),
        "low": f"{kind.low:g}" + (f", {low}" if low else ""),
        "high": f"{kind.high:g}" + (f", {high}" if high else ""),
        "below": f"{below:g}",
        "above": f"{above:g}",
        "leaning": f"lean to {low} normalization" if low else f"are nearer to {kind.low:g}",
        "dashed": escape(dashed),
    }


def _of_weights(name: str, kinds: Sequence[MixingKind]) -> dict[str, str]:
    count = len(kinds[0].labels)
    own = "" if kinds[0].neutral is None else ", where every bar was divided when training began"
    number = {2: "two", 3: "three", 4: "four"}.get(count, str(count))
    switch = name == "switch"
    return {
        "name": escape(name),
        "heading": escape(HEADINGS.get(name, "Weights of " + " and ".join(kind.title for kind in kinds))),
        "number": number,
        "of": " for " + " and for ".join(escape(word(kind)) for kind in kinds) if len(kinds) > 1 else "",
        "statistics": "statistics" if switch else "labels",
        "divided": f"{FRACTIONS.get(count, 'equal shares')}{own if switch else ''}",
    }


def _introduction(kind: MixingKind) -> str:
    per = "one value in every channel" if kind.per_channel else f"a value for each of {', '.join(kind.labels)}"
    start = "" if kind.neutral is None else f" Training starts at {kind.neutral:.3g}."
    title = f" ({escape(kind.title)})" if kind.title else ""
    return (
        f"  <p><code>{escape(kind.name)}</code>{title} is {escape(per)}, from {kind.low:g} to {kind.high:g}.{start}</p>"
    )

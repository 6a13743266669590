"""The picture of singular values over a training."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TITLES = {
    "sigma": "largest singular value, as used",
    "operator": "norm as a map of the inputs",
    "rank": "effective rank / full rank",
}

Curves = dict[str, list[tuple[int, float]]]
"""From a layer's label to steps and values."""


def draw(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Draw the curves of every layer, a row of panels for each network and a color for each depth.

    Args:
        rows: Rows of a run's ``spectral.csv``, whose columns are ``step`` and ``<network>/<layer>/<value>``.
        path: The PNG file to write.
    """
    curves = _curves(rows)
    networks = list(dict.fromkeys(network for network, _ in curves))
    # 1024 pixels wide, which a page shows as they are.
    figure = Figure(figsize=(10.24, 3.7 * len(networks)), dpi=100, layout="constrained")
    panels = figure.subplots(len(networks), len(TITLES), squeeze=False)
    for network, panel_row in zip(networks, panels, strict=True):
        for value, panel in zip(TITLES, panel_row, strict=True):
            _fill(panel, curves.get((network, value), {}))
            panel.set_title(f"{network}\n{TITLES[value]}" if value == "sigma" else f"\n{TITLES[value]}", fontsize=9)
        handles, labels = panel_row[0].get_legend_handles_labels()
        panel_row[-1].legend(handles, labels, fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    figure.savefig(path, format="png")


def _curves(rows: Sequence[Mapping[str, str]]) -> dict[tuple[str, str], Curves]:
    curves: dict[tuple[str, str], Curves] = {}
    for row in rows:
        for column, text in row.items():
            network, *label, value = column.split("/") if "/" in column else ("", "")
            if value in TITLES and text:
                points = curves.setdefault((network, value), {}).setdefault("/".join(label), [])
                points.append((int(row["step"]), float(text)))
    return curves


def _fill(panel: Axes, curves: Curves) -> None:
    colors = mpl.colormaps["viridis"]
    for number, (label, points) in enumerate(sorted(curves.items())):
        # Not up to the yellow end, which white paper hides; neighbors differ by their dashes too.
        color, style = colors(0.9 * number / max(1, len(curves) - 1)), ("-", "--", "-.")[number % 3]
        marker = "o" if len(points) == 1 else None
        panel.plot(*zip(*points, strict=True), color=color, linestyle=style, linewidth=1.3, marker=marker, label=label)
    values = [value for points in curves.values() for _, value in points]
    if values and min(values) > 0 and max(values) > 30 * min(values):
        panel.set_yscale("log")
    panel.set_xlabel("step", fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(alpha=0.25)

"""What the page shows of comparisons."""

from collections.abc import Sequence
from typing import Any

from pandas import DataFrame

from mixing_analysis.comparisons import Comparisons, sides_of
from mixing_analysis.effects import ALPHA
from mixing_analysis.findings import answers, finding, measure_name, measure_range
from mixing_analysis.values import Run, kinds_of

NUMBERS = {"difference": 5, "low": 5, "high": 5, "g": 3, "g_low": 3, "g_high": 3, "p": 6, "p_holm": 6}
"""What is shown of each layer, and to how many decimals."""


def describe(comparisons: Comparisons, runs: Sequence[Run]) -> dict[str, Any]:
    """Collect what the page shows of comparisons.

    Args:
        comparisons: See :func:`mixing_analysis.comparisons.compare`.
        runs: The runs that are compared.

    Returns:
        What can be written as JSON. Measures, pairs and layers are lists, and called by their places in them; sides are
        called by their places among the groups, or the runs if there is one group. Of a pair there is a part for each
        measure, with a list of each of :data:`NUMBERS`, in the order of its layers.
    """
    rows, kinds = comparisons.rows, {kind.name: kind for kind in kinds_of(runs)}
    sides = list(sides_of(runs))
    layers = {layer: place for place, layer in enumerate(rows["layer"].unique())}
    known = rows[["kind", "measure"]].drop_duplicates().itertuples(index=False)
    measures = [(kinds[kind], measure) for kind, measure in known]
    places = {(kind.name, measure): place for place, (kind, measure) in enumerate(measures)}
    pairs = []
    for (first, second), of_pair in rows.groupby(["first", "second"], sort=False):
        head = of_pair.iloc[0]
        parts = [
            {
                "measure": places[kind, measure],
                "layers": [layers[layer] for layer in part["layer"]],
                "finding": finding(part, kinds[kind]),
                **{name: _numbers(part, name) for name in NUMBERS},
            }
            for (kind, measure), part in of_pair.groupby(["kind", "measure"], sort=False)
        ]
        pairs.append(
            {
                "sides": [sides.index(first), sides.index(second)],
                "steps": [int(head["step_first"]), int(head["step_second"])],
                "runs": [int(head["runs_first"]), int(head["runs_second"])],
                "paired": bool(head["paired"]),
                "parts": parts,
            }
        )
    return {
        "layers": list(layers),
        "measures": [
            {"words": measure_name(kind, measure), "range": list(measure_range(kind, measure))}
            for kind, measure in measures
        ],
        "pairs": pairs,
        "alpha": ALPHA,
        "answers": list(answers(comparisons.omnibus, kinds)),
    }


def _numbers(rows: DataFrame, name: str) -> list[float | None]:
    rounded = rows[name].astype(float).round(NUMBERS[name])
    return [None if number != number else number for number in rounded.tolist()]

"""What may be said of a comparison, in words: a difference only where it is beyond what seeds make."""

from collections.abc import Iterator, Mapping

import numpy as np
from pandas import DataFrame

from mixing_analysis.comparisons import SEEDS_NEEDED
from mixing_analysis.effects import ALPHA, STILL
from mixing_analysis.kinds import NOISE, word
from norms.kinds import MixingKind


def measure_name(kind: MixingKind, measure: str) -> str:
    """Say what is compared of a kind, such as ``share of rho below 0.1``."""
    if not kind.per_channel:
        return f"{measure} weight of {word(kind)}"
    if measure == "mean":
        return f"mean {kind.name}"
    low, high = kind.ends
    return f"share of {kind.name} {measure} {low if measure == 'below' else high:g}"


def measure_range(kind: MixingKind, measure: str) -> tuple[float, float]:
    """Return what the values of a measure lie between."""
    return (0.0, 1.0) if measure in ("below", "above") and kind.per_channel else (kind.low, kind.high)


def p_value(p: float) -> str:
    """Write a p value."""
    return "p < 0.001" if p < 0.001 else f"p = {p_number(p)}"


def p_number(p: float) -> str:
    """Write a p value so short as shows on which side of the level it is."""
    return f"{p:.{2 if abs(p - ALPHA) > 0.001 else 3}g}"


def finding(rows: DataFrame, kind: MixingKind) -> str:
    """Say in a sentence how two groups differ in a measure, or why that cannot be said.

    Args:
        rows: The layers of one pair and measure, see :data:`mixing_analysis.comparisons.COMPARED`.
        kind: What is measured.
    """
    low, high = measure_range(kind, str(rows["measure"].iloc[0]))
    noise = NOISE * (high - low)
    count = f"{len(rows)} layers" if len(rows) > 1 else "the layer"
    size = rows["difference"].abs()
    if size.max() <= STILL:
        return f"No difference in {count}."
    if rows["p_holm"].isna().all():
        if size.max() < noise:
            return f"No difference yet: none is larger than {size.max():.3f}."
        layer = rows.loc[size.idxmax(), "layer"]
        return (
            f"The values are up to {size.max():.3f} apart, in {layer}. "
            f"A single run on a side cannot tell that from its seed; {SEEDS_NEEDED}."
        )
    clear = rows[rows["p_holm"] < ALPHA]
    if clear.empty:
        text = f"No difference beyond seeds in {count}: the smallest Holm-corrected {p_value(rows['p_holm'].min())}"
        fewest = rows[["runs_first", "runs_second"]].min(axis=None)
        if fewest < 3:
            return f"{text}. Two seeds on a side can hardly tell; {SEEDS_NEEDED}."
        reach = np.fmax(rows["low"].abs(), rows["high"].abs()).max()
        if np.isnan(reach):
            return f"{text}, since no seed makes any difference that it could be measured by."
        return f"{text}. The 95 % intervals reach to {reach:.2f}; more seeds would narrow them."
    beyond = f"Beyond seeds {len(clear)} of {count} differ (Holm-corrected p < {ALPHA:g})"
    most = clear.loc[clear["difference"].abs().idxmax()]
    if abs(most["difference"]) < noise:
        return f"{beyond}, all by less than {noise:g}: no preference yet."
    more = "more" if most["difference"] > 0 else "less"
    ends = sorted(abs(most[end]) for end in ("low", "high"))
    return (
        f"{beyond}, {most['layer']} most: {most['second']} has {abs(most['difference']):.3f} {more} there "
        f"than {most['first']} (95 %: {ends[0]:.3f} to {ends[1]:.3f}, Hedges' g {abs(most['g']):.1f})."
    )


def answers(found: DataFrame, kinds: Mapping[str, MixingKind]) -> Iterator[str]:
    """Say of which kinds groups differ in the mean over their networks, and of which they do not.

    Args:
        found: See :data:`mixing_analysis.comparisons.OMNIBUS`.
        kinds: The kinds by name.
    """
    alike = []
    for name, rows in found.dropna(subset="p_holm").groupby("kind", sort=False):
        best = rows.loc[rows["p_holm"].idxmin()]
        if best["p_holm"] >= ALPHA:
            alike.append((kinds[name].title, best["p_holm"]))
            continue
        measure = measure_name(kinds[name], best["measure"])
        test = f"{best['test']}, Holm-corrected {p_value(best['p_holm'])}"
        yield f"over the whole network the {best['groups']} groups differ in {kinds[name].title}: {measure} ({test})"
    if alike:
        smallest = p_value(min(p for _, p in alike))
        titles = " and ".join(title for title, _ in alike)
        none = f"no difference of groups in {titles} is beyond seeds"
        yield f"over the whole network {none} (Holm-corrected {smallest} or more)"

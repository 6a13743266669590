"""What the reader of a run's numbers should be told: where they are no preference, but a start or an accident."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from mixing_analysis.kinds import GAMMA, LOGGED, NOISE, word
from mixing_analysis.values import Run
from norms.kinds import RHO, MixingKind
from training.repetitions import flat

SAME_STATISTICS = "with one image a batch the statistics of the batch are those of the instance, so that"


def cautioned(run: Run) -> Run:
    """Return the run with what :func:`cautions` says of it among its notes."""
    return replace(run, notes=(*run.notes, *cautions(run)))


def cautions(run: Run) -> Iterator[str]:
    """Say of each kind of values whether it has left its start at all, and what batches of one image keep from it."""
    single = _has_single_images(run)
    for kind in run.kinds:
        values = _last_values(run, kind)
        if not len(values):
            continue
        away = None if kind.neutral is None else abs(values - kind.neutral).max()
        start = f"{kind.neutral:.3g}, where training began" if kind.neutral is not None else ""
        if single and kind.name == RHO.name:
            yield f"{SAME_STATISTICS} the gradient of {kind.name} is exactly 0: it cannot leave its start"
        elif away == 0:
            yield f"every {kind.name} is exactly {start}: nothing has moved it"
        elif away is not None and away < NOISE * (kind.high - kind.low):
            yield f"no preference yet: every {kind.name} is within {away:.2g} of {start}"
        if single and {"instance", "batch"} <= set(kind.labels):
            yield f"{SAME_STATISTICS} of the weights of {word(kind)} only the sum of these two means something"


def _last_values(run: Run, kind: MixingKind) -> np.ndarray:
    rows = run.frame[run.frame["kind"] != GAMMA]
    rows = rows[rows["step"] == rows["step"].max()]
    ends = rows["kind"].eq(kind.name + LOGGED) & rows["statistic"].isin(["min", "max"])
    return rows.loc[rows["kind"].eq(kind.name) | ends, "value"].to_numpy()


def _has_single_images(run: Run) -> bool:
    """Return whether the layers saw one image at a time, and did not share their statistics between processes."""
    settings = flat(dict(run.config or {}))
    of_generator = settings.get("model.init_args.generator_batch_size")
    size = settings.get("data.init_args.batch_size") if of_generator is None else of_generator
    return size == 1 and not settings.get("trainer.sync_batchnorm")

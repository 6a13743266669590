"""What the mixing layers of an experiment's runs have learned, as one table."""

import pandas as pd
from pandas import CategoricalDtype, DataFrame

from experiments.reading import Runs
from mixing_analysis.sources import read_run
from mixing_analysis.values import THIRDS
from norms.kinds import RHO


def learned(runs: Runs) -> DataFrame:
    """Return the values of all mixing layers at all steps at which they were kept.

    Returns:
        A row per value: the columns of :attr:`experiments.reading.Runs.frame`, ``step``, ``layer`` with its ``depth``
        from 0, which ``third`` of the network that is in, ``channel``, ``kind``, ``statistic`` and ``value``; see
        :data:`mixing_analysis.values.COLUMNS`. It is empty if no run has such layers.
    """
    parts = []
    for index, (_, run) in zip(runs.frame.index, runs.each(), strict=True):
        if run.mixing_steps():
            values = read_run(str(run.folder)).frame
            third = 3 * values["depth"] // (values["depth"].max() + 1)
            parts.append(values.assign(run=index, third=[THIRDS[number] for number in third]))
    columns = ["run", "step", "layer", "depth", "third", "channel", "kind", "statistic", "value"]
    every = pd.concat(parts, ignore_index=True) if parts else DataFrame(columns=columns)
    plain = {name: str for name in every if isinstance(every[name].dtype, CategoricalDtype)}
    return runs.frame.merge(every.astype(plain), left_index=True, right_on="run").drop(columns="run")


def at_end(values: DataFrame) -> DataFrame:
    """Return the rows of the last step of each run."""
    return values[values["step"] == values.groupby("folder")["step"].transform("max")]


def gates(values: DataFrame) -> DataFrame:
    """Sum up the gates of batch-instance normalization of each run.

    Args:
        values: Rows of :func:`learned` of a single step of each run.

    Returns:
        A row per ``folder`` with the mean over all channels, ``rho``; the shares near instance and near batch
        normalization, ``below`` and ``above``; the mean over the channels of the first layer, ``entry``; and those over
        the first and the last third of the layers, ``first`` and ``last``, with their shares ``first_below`` and
        ``last_below``.
    """
    low, high = RHO.ends
    rho = values[values["kind"] == RHO.name]
    rho = rho.assign(below=rho["value"] < low, above=rho["value"] > high, rho=rho["value"])
    found = rho.groupby("folder")[["rho", "below", "above"]].mean()
    found["entry"] = rho[rho["depth"] == 0].groupby("folder")["value"].mean()
    for third in ("first", "last"):
        part = rho[rho["third"] == third].groupby("folder")
        found[third], found[f"{third}_below"] = part["value"].mean(), part["below"].mean()
    return found.reset_index()

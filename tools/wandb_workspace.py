"""Make a Weights & Biases workspace for runs of normlab: ``python -m tools.wandb_workspace RUN``.

A workspace is a page of a project, with sections that have been chosen: losses, what the norms have learned over the
whole network and in each layer, heat maps of layers by steps, what the runs have come to against what they have
learned, and sample pictures. Its panels are of what RUN has logged, and show all runs of the project that log the same.
It needs the package wandb-workspaces, and a login.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mixing_analysis.kinds import described_kinds
from mixing_analysis.values import layers_of
from norms.errors import SettingError
from norms.kinds import MixingKind
from training.best_values import best_of
from training.callbacks.mixing import heat_map_key, log_names
from training.metrics_file import MetricsFile
from training.run import Run
from training.wandb_logger import AXIS

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

OUTCOMES = ("val/loss", "val/fid", "val/fd", "val/kid", "val/accuracy", "val/")
"""How the name of the metric begins that says what a run has come to, the first that there is."""

SETTINGS = ("norm", "rho_lr_multiplier", "lr")
"""What of a model's settings stands beside what was learned."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a workspace and print its address, or one line that says why there is none."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", metavar="RUN", help="run folder whose metrics the panels are of")
    parser.add_argument("--project", help="project of the workspace; by default that of the run")
    parser.add_argument("--entity", help="user or team of the project; by default that of the run or of the login")
    parser.add_argument("--name", default="What the norms have learned", help="name of the workspace")
    options = parser.parse_args(arguments)
    try:
        run = Run.find(options.run, with_checkpoint=False)
        own = (run.read_config() or {}).get("wandb") or {}
        entity = options.entity or own.get("entity") or _entity()
        made = workspace(run, entity, options.project or own.get("project") or "normlab", options.name)
        print(_save(made))
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def workspace(run: Run, entity: str, project: str, name: str) -> "Workspace":
    """Put together a workspace whose panels are of what a run has logged.

    Raises:
        SettingError: If the package wandb-workspaces is missing, or the run has logged nothing.
    """
    try:
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise SettingError('needs wandb-workspaces: pip install "normlab[workspace]"') from error
    rows = MetricsFile(run.metrics).rows()
    if not rows:
        raise SettingError(f"{run.folder} has logged nothing yet: {run.metrics.name} is missing or empty")
    columns = [*rows[0]]
    kinds = [kind for kind in described_kinds(run) if kind.log_keys("all")[0] in columns]
    sections = [_losses(columns), _learned(kinds), _heat_maps(kinds), *([_layers(kinds, run)] if kinds else [])]
    sections += [_compared(kinds, columns, run.read_config() or {}), _pictures(run)]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[section for section in sections if section.panels],
        settings=ws.WorkspaceSettings(x_axis=AXIS),
    )


def _section(name: str, panels: Iterable[Any], is_open: bool = True) -> "Section":
    import wandb_workspaces.workspaces as ws

    return ws.Section(name=name, panels=list(panels), is_open=is_open)


def _lines(title: str, keys: Iterable[str], bounds: tuple[float | None, float | None] = (None, None)) -> Any:
    from wandb_workspaces.reports.v2 import LinePlot

    return LinePlot(title=title, x=AXIS, y=list(keys), range_y=bounds)


def _losses(columns: Sequence[str]) -> "Section":
    shown = [key for key in columns if key.startswith(("train/", "val/")) and not key.startswith("train/lr")]
    return _section("Losses", (_lines(key, [key]) for key in sorted(shown, key=lambda key: key.startswith("train/"))))


def _learned(kinds: Iterable[MixingKind]) -> "Section":
    panels = []
    for kind in kinds:
        keys, bounds = kind.log_keys("all"), (kind.low, kind.high)
        if kind.per_channel:
            panels += [_lines(f"{kind.title}: mean over all channels", keys[:1], bounds)]
            panels += [_lines(f"{kind.title}: shares of channels near the ends", keys[-2:], (0, 1))]
        else:
            panels += [_lines(f"{kind.title}: mean over all layers", keys, bounds)]
    return _section("Learned normalization", panels)


def _heat_maps(kinds: Iterable[MixingKind]) -> "Section":
    from wandb_workspaces.reports.v2 import MediaBrowser

    keys = dict.fromkeys(map(heat_map_key, kinds))
    return _section("Layers by steps", (MediaBrowser(title=key, media_keys=[key], num_columns=1) for key in keys))


def _layers(kinds: Iterable[MixingKind], run: Run) -> "Section":
    with np.load(next(iter(run.mixing_steps().values()))) as arrays:
        there = set(arrays.files)
        layers = layers_of(arrays.files)
    panels = []
    for kind in kinds:
        pairs = zip(layers, log_names(layers), strict=True)
        keys = [kind.log_keys(name) for layer, name in pairs if f"{layer}/{kind.name}" in there]
        for number, label in enumerate(kind.labels or ["mean"]):
            title, bounds = f"{kind.title}: {label} of each layer", (kind.low, kind.high)
            panels.append(_lines(title, [each[number] for each in keys], bounds))
    return _section("Single layers", panels, is_open=False)


def _compared(kinds: Sequence[MixingKind], columns: Sequence[str], config: Mapping[str, Any]) -> "Section":
    from wandb_workspaces.reports.v2 import Config, ParallelCoordinatesPlot, ScatterPlot, SummaryMetric
    from wandb_workspaces.reports.v2 import ParallelCoordinatesPlotColumn as Column

    outcomes = [key for beginning in OUTCOMES for key in columns if key.startswith(beginning)]
    learned = [key for kind in kinds for key in (kind.log_keys("all")[: len(kind.labels) or 1])]
    if not outcomes or not learned:
        return _section("Runs compared", [])
    outcome = SummaryMetric(f"{outcomes[0]}.{best_of(outcomes[0])}")
    panels: list[Any] = [
        ScatterPlot(title=f"best {outcomes[0]} against {key}", x=SummaryMetric(key), y=outcome, regression=True)
        for key in learned
    ]
    settings = config.get("model", {}).get("init_args", {})
    names = [f"model.init_args.{name}" for name in SETTINGS if name in settings]
    axes = [*map(Config, names), *map(SummaryMetric, learned), outcome]
    panels.append(ParallelCoordinatesPlot(title="settings, what was learned, outcome", columns=list(map(Column, axes))))
    return _section("Runs compared", panels)


def _pictures(run: Run) -> "Section":
    from wandb_workspaces.reports.v2 import MediaBrowser

    there = [("samples", run.samples), ("spectral", run.spectral_plot)]
    return _section("Pictures", (MediaBrowser(title=key, media_keys=[key]) for key, path in there if path.exists()))


def _entity() -> str:
    import wandb

    try:
        if wandb.login(prompt=False, verify=False):
            return str(wandb.Api().default_entity)
    except Exception as error:  # of W&B, and of the network
        raise SettingError(f"W&B cannot be reached: {_one_line(error)}") from error
    raise SettingError("nobody is logged in to W&B: run `wandb login` or set WANDB_API_KEY")


def _save(made: "Workspace") -> str:
    try:
        return str(made.save().url)
    except Exception as error:  # of W&B, and of the network
        raise SettingError(f"W&B does not take the workspace: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    raise SystemExit(main())

"""Weights & Biases, which stops no training."""

import os
import shlex
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytorch_lightning.loggers
from lightning_fabric.loggers.logger import rank_zero_experiment
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_only

from training.background import Background
from training.best_values import best_of
from training.files import replacing
from training.run import Run
from training.wandb_options import WandbOptions

if TYPE_CHECKING:
    import wandb

AXIS = "trainer/global_step"
"""What W&B draws all metrics against."""

PATIENCE = 60.0
"""Seconds that W&B may take for one record before it counts as frozen; uploads happen elsewhere and may take longer."""

HIDDEN = ("epoch", "train/lr_d", "train/lr_g", "train/penalty", "train/augment_probability")
"""What W&B makes no panel of by itself, so that there are 15 at most unless more is asked for."""


class WandbLogger(pytorch_lightning.loggers.WandbLogger):
    """Lightning's Weights & Biases logger, but no failure of W&B stops or hangs a training.

    Who is logged in to W&B gets the run online, everyone else offline, in the run folder's ``wandb``, for
    ``wandb sync``. ``WANDB_MODE``, ``WANDB_PROJECT``, ``WANDB_NAME``, ``WANDB_DIR`` and W&B's other variables hold as
    usual. If W&B cannot be reached at the start or refuses a variable, the run is logged offline; if it fails or
    freezes later, the training goes on without it. One warning says so, and where the data is. A picture or a table
    that cannot be made costs only itself. A resumed training continues the same W&B run.

    The summary has the lowest of each metric of validations, or the highest if that is best, and the last of all else.

    Args:
        run_dir: The run's folder.
        options: What the user has set.
        config: The run's configuration, which names its group and tags.
        init_timeout: Seconds to wait for the server at the start, unless ``WANDB_INIT_TIMEOUT`` says otherwise.
        finish_timeout: Seconds to wait for uploads at the end, unless ``WANDB_FINISH_TIMEOUT`` says otherwise; by
            default 30, or 600 if there are checkpoints among them.
    """

    def __init__(
        self,
        run_dir: str | Path,
        options: WandbOptions | None = None,
        config: Mapping[str, Any] | None = None,
        init_timeout: float = 20,
        finish_timeout: float | None = None,
    ) -> None:
        self._folder, self._options, self._config = Run(run_dir), options or WandbOptions(), config or {}
        self._settings = self._options.arguments(self._folder, self._config)
        folder, project = os.environ.get("WANDB_DIR") or run_dir, self._settings["project"]
        super().__init__(name=self._settings["name"], save_dir=folder, project=project)
        self._settings["dir"] = self.save_dir
        self._run: wandb.Run | NoRun | None = None
        self._run_id: str | None = None
        self._id_file = self._folder.wandb_id
        if finish_timeout is None:
            finish_timeout = 600 if self._options.log_model else 30
        self._timeouts = {"init_timeout": init_timeout, "finish_timeout": finish_timeout}
        self._defined: set[str] = set()
        self._background = Background()
        self._told = False
        self.sync_command: str | None = None
        """The command that uploads what W&B has on disk only, once there is such data."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started on first use, when all that was logged is in it; one that does nothing if it failed."""
        if self._run is None:
            self._run = self._start()
        self._background.drain(PATIENCE)
        self._check()
        return self._run

    @property
    def log_model(self) -> bool | Literal["all"]:
        """Whether checkpoints are kept as artifacts."""
        return self._options.log_model

    @property
    def version(self) -> str | None:
        """The id of the W&B run, once there is one."""
        return self._run_id

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Add settings to the run's configuration."""
        settings = vars(params) if isinstance(params, Namespace) else params
        self._attempt(lambda run: run.config.update(settings, allow_val_change=True))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log scalars, and W&B's own types, such as histograms.

        Unlike in Lightning, ``step`` is W&B's own step too: whatever belongs to one step becomes one row, and a resumed
        run does not count from 0 again.
        """
        row = dict(metrics) if step is None else {**metrics, AXIS: step}
        # A number that is none would for ever be the lowest of its metric.
        row = {key: value for key, value in row.items() if not (key.startswith("val/") and value != value)}

        def log(run: Any) -> None:
            for key in row.keys() - self._defined:
                self._defined.add(key)
                if key.startswith("val/"):
                    run.define_metric(key, summary=best_of(key), step_metric=AXIS, step_sync=True)
            run.log(row, step=step)

        self._attempt(log)

    @rank_zero_only
    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Put values into the run's summary, which otherwise has the last of each metric."""
        self._attempt(lambda run: run.summary.update(dict(values)))

    @rank_zero_only
    def log_made(self, make: Callable[[], Mapping[str, Any]], step: int) -> None:
        """Log what ``make`` makes of W&B's own types, such as pictures; if that fails, the training has lost only that.

        Args:
            make: Returns what to log, by key.
            step: The step it belongs to.
        """

        def log(run: Any) -> None:
            try:
                run.log({**make(), AXIS: step}, step=step)
            except Exception as error:
                run.log({}, step=step)  # which fails too if it is more than these
                if not self._told:
                    self._told = True
                    self._background.report(f"W&B could not log all pictures and tables ({_one_line(error)})")

        self._attempt(log)

    @rank_zero_only
    def hide(self, keys: Iterable[str]) -> None:
        """Let W&B make no panels of some metrics by itself; its history has them, and who wants a panel can add it."""
        self._attempt(lambda run: _define_hidden(run, keys))

    @rank_zero_only
    def alert(self, title: str, text: str) -> None:
        """Send an alert, which W&B passes on by mail or Slack to who has asked for that.

        Args:
            title: At most 64 characters.
            text: The rest.
        """
        self._attempt(lambda run: run.alert(title=title[:64], text=text, level="WARN"))

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """Log pictures.

        Args:
            key: What they are called.
            images: The pictures.
            step: The step they belong to.
            kwargs: Lists of what :class:`wandb.Image` takes besides, one for each picture, such as ``caption``.
        """

        def make() -> dict[str, Any]:
            import wandb

            more = [dict(zip(kwargs, values, strict=True)) for values in zip(*kwargs.values(), strict=True)]
            pairs = zip(images, more or [{}] * len(images), strict=True)
            return {key: [wandb.Image(image, **options) for image, options in pairs]}

        self.log_made(make, step or 0)

    @rank_zero_only
    def log_checkpoint(self, path: Path, step: int, alias: str) -> None:
        """Keep a checkpoint as a version of the artifact ``model-<id of the W&B run>``.

        Args:
            path: The file, which is copied.
            step: Its step.
            alias: What this version is called.
        """
        self._log_files("model", [path], [alias], {"step": step})

    def _log_files(self, kind: str, files: Sequence[Path], aliases: list[str], metadata: dict[str, Any]) -> None:
        if self._run is None:
            self._run = self._start()
        if isinstance(self._run, NoRun):
            return
        try:
            import wandb

            artifact = wandb.Artifact(f"{kind}-{self._run_id}", type=kind, metadata={**metadata, "run": self._name})
            for file in files:
                artifact.add_file(str(file), name=str(file.relative_to(self._folder.folder)))
        except Exception as error:
            _warn(f"W&B could not take {', '.join(map(_from_here, files))} as an artifact ({_one_line(error)})")
        else:
            self._attempt(lambda run: run.log_artifact(artifact, aliases=aliases))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the W&B run and wait for its uploads, at most ``finish_timeout`` seconds and a little."""
        if self._run is None:
            return
        if self.log_model:
            self._log_tables()
        run = self._run
        recorded = None if isinstance(run, NoRun) or not run.offline else Path(run.dir).parent
        self._attempt(lambda run: run.finish(exit_code=0 if status == "success" else 1))
        with suppress(ValueError):
            self._background.patience = 10 + float(
                os.environ.get("WANDB_FINISH_TIMEOUT") or self._timeouts["finish_timeout"]
            )
        self._background.finish()
        self._check()
        if recorded is not None and not recorded.is_dir() and not isinstance(self._run, NoRun):
            _warn(f"{_from_here(recorded)} is gone, and what W&B had recorded with it; metrics.csv has every scalar.")
        if not isinstance(self._run, NoRun):
            self._run = None

    def _log_tables(self) -> None:
        """Keep the tables of the run's end as an artifact."""
        run = self._folder
        last = [*run.mixing_steps().values()][-1:]
        files = [run.config, run.metrics, run.spectral, run.events, run.mixing_kinds, *last]
        self._log_files("tables", [file for file in files if file.is_file()], ["last"], {})

    def _start(self) -> "wandb.Run | NoRun":
        try:
            import wandb

            # Silent: this class says what matters, in one line.
            chosen: Any = self._options.mode
            settings = wandb.Settings(silent=True) if chosen is None else wandb.Settings(silent=True, mode=chosen)
            mode = wandb.setup(settings).settings.mode
            if mode not in ("online", "run"):
                return self._init(chosen)
            if not wandb.login(prompt=False, verify=False):
                run = self._init("offline")
                rank_zero_info(f"W&B: not logged in, so logging offline; upload the run with: {self.sync_command}")
                return run
            run = self._init("online")
            rank_zero_info(f"W&B: {run.url}")
            return run
        except Exception as error:
            return self._start_offline(error)

    def _start_offline(self, reason: Exception) -> "wandb.Run | NoRun":
        try:
            try:
                run = self._init("offline")
            except Exception:
                # A variable may be what W&B refuses.
                with _without_variables():
                    self._settings = self._options.arguments(self._folder, self._config) | {"dir": self.save_dir}
                    run = self._init("offline")
        except Exception as error:
            return self._without_wandb(error)
        _warn(
            f"W&B cannot be reached ({_one_line(reason)}), so this run is logged offline; "
            f"upload it with: {self.sync_command}"
        )
        return run

    def _init(self, mode: Literal["online", "offline"] | None) -> "wandb.Run":
        import wandb

        timeouts: dict[str, Any] = {
            key: value for key, value in self._timeouts.items() if f"WANDB_{key.upper()}" not in os.environ
        }
        run = wandb.init(
            **self._settings,
            id=self._id_file.read_text().strip() if self._id_file.is_file() else None,
            mode=mode,
            resume="allow",
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, finish_timeout_raises=True, **timeouts),
        )
        run.define_metric(AXIS, hidden=True)
        run.define_metric("*", step_metric=AXIS, step_sync=True)
        _define_hidden(run, HIDDEN)
        self._defined = set()
        self._run_id = run.id
        if not run.disabled:
            with replacing(self._id_file) as partial:
                partial.write_text(f"{run.id}\n")
        if run.offline:
            folder = Path(run.dir).parents[1]
            parts = f"{shlex.quote(_from_here(folder))}/offline-run-*-{run.id}"
            self.sync_command = f"wandb sync {parts}"
            if len(list(folder.glob(f"offline-run-*-{run.id}"))) > 1:
                # Given several parts of a resumed run, W&B stops at the first that a kill has cut off.
                self.sync_command = f'for part in {parts}; do wandb sync "$part"; done'
        return run

    def _attempt(self, action: Callable[[Any], object]) -> None:
        """Do something with the run, in the background: a W&B that has frozen would never return."""
        if self._run is None:
            self._run = self._start()
        self._check()
        run = self._run
        if not isinstance(run, NoRun):
            self._background.do(lambda: action(run))

    def _check(self) -> None:
        # Whatever W&B raises: its errors, those of its broken connections, and those of its abandoned requests.
        for message in self._background.messages():
            _warn(message)
        error = self._background.error(PATIENCE)
        if error is not None and not isinstance(self._run, NoRun):
            self._run = self._without_wandb(error)

    def _without_wandb(self, error: Exception) -> "NoRun":
        place = ""
        if self._run is not None and not isinstance(self._run, NoRun) and not self._run.disabled:
            folder = _from_here(Path(self._run.dir).parent)
            if self.sync_command is None:
                self.sync_command = f"wandb sync --include-online {shlex.quote(folder)}"
            place = f" What W&B has recorded is in {folder}; upload it with: {self.sync_command}"
        _warn(f"W&B failed ({_one_line(error)}); the training goes on, and metrics.csv has everything.{place}")
        give_up_wandb()
        return NoRun()


def _define_hidden(run: Any, keys: Iterable[str]) -> None:
    for key in keys:
        # A metric that is defined by its whole name has nothing of what is defined for all.
        run.define_metric(key, step_metric=AXIS, step_sync=True, hidden=True)


class NoRun:
    """Stand for a W&B run once W&B has failed: take everything and do nothing."""

    def __getattr__(self, name: str) -> "NoRun":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> "NoRun":  # noqa: D102
        return self

    def __getitem__(self, key: object) -> "NoRun":
        return self

    def __setitem__(self, key: object, value: object) -> None:
        pass


def give_up_wandb() -> None:
    """End W&B's process, which otherwise would be tried again, or waited for, when this process exits."""

    def forget() -> None:
        import wandb

        with suppress(Exception):
            wandb.teardown()
        with _without_variables():
            wandb.init(mode="disabled").finish()  # so that W&B takes no other run for that of this process

    ending = Background(patience=5)
    ending.do(forget)
    ending.finish()


@contextmanager
def _without_variables() -> Iterator[None]:
    kept = {key: value for key, value in os.environ.items() if key.startswith("WANDB_")}
    for key in kept:
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(kept)


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _from_here(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

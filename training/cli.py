"""Lightning's command line with run folders, loggers and callbacks of normlab's own."""

import os
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_info
from pytorch_lightning import Callback, LightningDataModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins import LayerSync
from safetensors.torch import save_file
from torch import Tensor

from data.files import check_file
from lightning_modules.base import HYPER_PARAMETERS, CheckpointError, TrainingModule, plain_settings
from norms.errors import SettingError
from training.callbacks.agreement import Agreement
from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.companions import Companions
from training.callbacks.guard import Guard, lowered_rate
from training.callbacks.progress import RunProgress
from training.callbacks.run_folder import RunFolder
from training.callbacks.signals import EndOnSignal
from training.callbacks.step_axis import StepAxis
from training.callbacks.summary import print_summary
from training.environment import from_environment
from training.errors import RollbackError
from training.files import replacing
from training.fsdp import check_fsdp2
from training.guarded_loggers import NO_SECOND_WANDB, Later, built_later, guarded
from training.hosts import as_started, check_hosts, for_all_hosts
from training.layer_sync import NormSync
from training.lightning_private import CLI, leave_signals_alone, need_no_folder
from training.lock import locked
from training.loggers import MetricsLogger
from training.messages import relevant_messages
from training.monitors import MONITORS
from training.parser_errors import shorten, with_whole_number
from training.paths import local_path
from training.run import Run
from training.seeds import with_all_seeds
from training.settings import (
    check_against_model,
    check_call,
    check_config,
    check_processes,
    check_texts,
    check_trainer,
    does_not_fit,
    is_of_a_callback,
    without_enums,
)
from training.shipped import with_shipped_configs
from training.terminal import lasting_output
from training.wandb_options import WandbOptions
from training.yaml_text import load_checked_yaml

TRAINER_DEFAULTS = {
    "max_epochs": -1,
    "check_val_every_n_epoch": None,
    "val_check_interval": 500,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
    "use_distributed_sampler": False,
    "enable_autolog_hparams": False,
    "enable_model_summary": False,
}

AUTO = "auto"
"""What --ckpt_path says to go on with the newest run of the same name, or to begin if there is no checkpoint yet."""

LINK_SOURCE, LINK_TARGET = "model.batches_per_step", "data.init_args.batches_per_step"


class TrainCLI(CLI):
    """Lightning's command line with run folders, loggers and callbacks of normlab's own, and errors of one line.

    Args:
        args: The command line, without the program.

    Raises:
        SettingError: If the user made a mistake.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self._parsers: list[LightningArgumentParser] = []
        self._loggers: list[Later] = []
        self._constructor_error: Exception | None = None
        self._resumed: Run | None = None
        self._given, self._arguments = args, with_all_seeds(with_shipped_configs(args))
        self._signals = EndOnSignal()
        try:
            super().__init__(
                TrainingModule,
                LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                trainer_defaults=TRAINER_DEFAULTS,
                seed_everything_default=0,
                parser_kwargs={
                    "allow_abbrev": False,
                    "default_env": True,
                    "exit_on_error": False,
                    **{name: {"allow_abbrev": False} for name in self.subcommands()},
                },
                save_config_callback=None,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                args=self._arguments,
            )
        except CheckpointError as error:
            if self._resumed is None:
                raise
            raise self._resumed.damaged(SettingError(f"{self._resumed.checkpoint}: {error}")) from error

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the one subcommand that is called, since each has a parser that takes its time, or else all."""
        known = CLI.subcommands()
        called = next(iter(self._arguments), "")
        return {called: known[called]} if called in known else known

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what this project has besides Lightning's options."""
        self._parsers.append(parser)
        parser.add_argument("--name", type=str, default="run", help="Name of the run, a folder in runs_dir.")
        parser.add_argument("--runs_dir", type=str, default="runs", help="Folder of all runs.")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        for name, monitor in MONITORS.items():
            parser.add_lightning_class_args(monitor, name)
        parser.add_lightning_class_args(Guard, "guard")
        parser.add_lightning_class_args(Companions, "hosts")
        parser.add_class_arguments(WandbOptions, "wandb")
        parser.link_arguments(LINK_SOURCE, LINK_TARGET, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line; what it gives to an option that follows from another is refused, not dropped."""
        load_checked_yaml()
        need_no_folder()
        check_texts(args)
        try:
            given = self._parsed(parser, args, defaults=False)
            options = given[given.subcommand].as_flat()
            args = [*args, *from_environment(given.subcommand, vars(options), self._known_options())]
            self.config = self._parsed(parser, args)
        except (ArgumentError, RecursionError, OverflowError, UnicodeDecodeError) as error:
            told = shorten(str(error), args, self._known_options(), "use --config FILE")
            raise SettingError(NO_SECOND_WANDB if "WandbLogger" in told else told) from error
        if given.get(f"{given.subcommand}.{LINK_TARGET}") is not None:
            raise SettingError(f"{LINK_TARGET} follows from {LINK_SOURCE}: remove it")
        check_config(self.config[given.subcommand].as_dict())

    def _parsed(self, parser: LightningArgumentParser, args: Sequence[str], defaults: bool = True) -> Any:
        try:
            return parser.parse_args(args, defaults=defaults)
        except ArgumentError as error:
            whole = with_whole_number(args, str(error))
            if whole == args:
                raise
            return self._parsed(parser, whole, defaults)

    def _known_options(self) -> list[str]:
        return [option for each in self._parsers for option in vars(each.get_defaults().as_flat())]

    def before_instantiate_classes(self) -> None:
        """Refuse what the configuration alone shows to be wrong, and find the checkpoint."""
        config = self._options
        config.runs_dir = local_path("runs_dir", config.runs_dir)
        _ = local_path("name", config.name)
        if self.subcommand == "fit":
            check_trainer(config.trainer)
        elif not config.ckpt_path:
            raise SettingError(
                f"{self.subcommand} needs a trained model: give --ckpt_path with a run folder, a checkpoint or 'last'"
            )
        else:  # what a training had noted, such as its best checkpoint, is of no use
            warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint need to be provided")
        config.weights_only = True
        if config.ckpt_path == AUTO and self.subcommand == "fit":
            config.ckpt_path = "last" if Run.newest(Path(config.runs_dir, config.name)) else None
        if config.ckpt_path:
            config.ckpt_path = local_path("ckpt_path", config.ckpt_path)
            self._resumed = self._find_run()
            config.ckpt_path = str(self._resumed.checkpoint)
            if self.subcommand == "fit":
                self._keep_lowered_rate(config.model.get("init_args") or {}, self._resumed.state)

    def _keep_lowered_rate(self, settings: Any, checkpoint: Mapping[str, Any]) -> None:
        """Go on at the rate that going back has lowered, if the command is repeated as it was."""
        configured = settings.get("lr")
        rate = lowered_rate(checkpoint, configured) if isinstance(configured, int | float) else None
        if rate is not None:
            settings["lr"] = rate
            rank_zero_info(
                f"going on at the learning rate {rate:g}, to which it was lowered from {configured:g} when the "
                "training went back; any other --model.lr is taken as it is"
            )

    def _find_run(self) -> Run:
        config = self._options
        last = config.ckpt_path == "last"
        try:
            run = Run.find(Path(config.runs_dir, config.name) if last else config.ckpt_path)
            _ = run.module_name  # which reads the checkpoint
            run.check_parts(resuming=self.subcommand == "fit")
        except SettingError as error:
            raise SettingError(f"--ckpt_path {config.ckpt_path}: {error}{for_all_hosts(config.trainer)}") from error
        return run

    @property
    def _options(self) -> Any:
        return self.config[str(self.subcommand)]

    @property
    def _built(self) -> Any:
        return self.config_init[str(self.subcommand)]

    def instantiate_classes(self) -> None:
        """Build model, data and trainer; a ValueError of theirs says that a configured value is wrong."""
        for base in (TrainingModule, LightningDataModule, Callback, Logger):
            self.parser.add_instantiator(self._build, base)
        try:
            super().instantiate_classes()
        except ValueError as error:
            cause = self._constructor_error or error
            if isinstance(cause, ValueError):
                raise SettingError(str(cause)) from cause
            raise cause from None
        if self._resumed is not None:
            self._resumed.check_finite(self.model)
            self.model.resumes = True

    def _build(self, class_type: type, *args: Any, **kwargs: Any) -> Any:
        try:
            check_call(class_type, args, kwargs)
            # A logger waits for the run's folder.
            return built_later(class_type, **kwargs) if issubclass(class_type, Logger) else class_type(*args, **kwargs)
        except Exception as error:
            if does_not_fit(error):
                error = SettingError(f"{class_type.__name__} does not fit into memory: {str(error).splitlines()[0]}")
            self._constructor_error = error  # which jsonargparse would bury in a ValueError of its own
            raise error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer; loggers wait for the run's folder."""
        config = as_started({**self._built.trainer, **kwargs})
        self._loggers, callbacks, plugins = (
            value if isinstance(value, list) else [value] if value not in (None, True) else []
            for value in (config["logger"], config["callbacks"], config["plugins"])
        )
        # Lightning's own knows no norms but torch's. It refuses the option beside a plugin, which is right here too.
        if config["sync_batchnorm"] and not any(isinstance(plugin, LayerSync) for plugin in plugins):
            config["sync_batchnorm"], plugins = False, [*plugins, NormSync()]
        check_against_model(self.model, config, callbacks)
        self.model.check_data(self.datamodule)
        config |= {"logger": False, "callbacks": [*callbacks, *self._callbacks()], "plugins": plugins}
        try:
            trainer = Trainer(**config)
        except (TypeError, RuntimeError, ArithmeticError, LookupError, ImportError) as error:
            raise SettingError(f"trainer: {error}") from error  # Lightning checks less than it takes
        check_processes(trainer)
        check_fsdp2(trainer, self.model)
        check_hosts(trainer)
        leave_signals_alone(trainer)
        return trainer

    def _found_options(self) -> Any:
        """Return the options with what the model made of its own, such as the files of a folder, for what resumes."""
        options = self._options.clone()
        settings, found = options.model.init_args, plain_settings({HYPER_PARAMETERS: self.model.hparams})
        for key in found.keys() & vars(settings).keys():
            settings[key] = found[key]
        return options

    def _callbacks(self) -> list[Callback]:
        trainer, callbacks = self._options.trainer, list[Callback]()
        if self.subcommand in ("validate", "test"):
            self._built.metrics.run = self._resumed
            return [self._built.metrics]
        if self.subcommand != "fit":
            return callbacks
        if not trainer.fast_dev_run:
            parser = self._parsers[list(self.subcommands()).index(str(self.subcommand))]
            skip_nulls = False  # by position, since jsonargparse has renamed the parameter
            resolved = parser.dump(without_enums(self._found_options()), "yaml", skip_nulls)
            built, checkpoint = self._built, None if self._resumed is None else self._resumed.told
            callbacks += [Agreement(resolved, checkpoint), built.guard, built.hosts, self._signals]
            callbacks.append(RunFolder(resolved, built.wandb))
            callbacks += [*(getattr(built, name) for name in MONITORS), StepAxis()]
            if trainer.enable_checkpointing is not False:
                callbacks.append(self._built.checkpoint)
        if trainer.enable_progress_bar is not False:
            callbacks.append(RunProgress())
        return callbacks

    def fit(self, **kwargs: Any) -> None:
        """Train in a run folder, and say in the end what is there."""
        if self._options.trainer.fast_dev_run:
            self.trainer.fit(**kwargs)
            return
        alone, tells = self.trainer.num_devices * self.trainer.num_nodes == 1, self.trainer.is_global_zero
        signals, hosts = self._signals.installed(alone, tells), self._built.hosts
        with lasting_output(), self._run() as run, signals, hosts.watched(self.trainer, run, self._given):
            self.trainer.loggers = [MetricsLogger(run.folder), *guarded([build(run.folder) for build in self._loggers])]
            try:
                self._fit(**kwargs)
            except RuntimeError as error:
                hosts.blame(self.trainer, error)
                raise
            except SystemExit as error:
                print_summary(self.trainer, run, interrupted=self._given)
                if isinstance(error.__context__, KeyboardInterrupt):
                    raise SystemExit(130) from error  # for which Lightning exits with 1
                raise
            print_summary(self.trainer, run)

    def _fit(self, **kwargs: Any) -> None:
        """Train, and where the guard goes back, go on from there in the same run."""
        while True:
            try:
                return self.trainer.fit(**kwargs)
            except RollbackError as back:
                # The checkpoint's rates are scaled to the setting when it is loaded.
                self.model.hparams["lr"], self.model.resumes = back.rate, True
                kwargs["ckpt_path"] = str(back.checkpoint)

    def predict(self, **kwargs: Any) -> None:
        """Predict on the data's held-out images, and write what comes out into the run's folder."""
        assert self._resumed is not None
        file = self._resumed.predictions
        parts = [part for part in self.trainer.predict(**kwargs) or [] if isinstance(part, Tensor)]
        if not parts:
            raise SettingError("nothing is predicted: the data holds no images for it, or limit_predict_batches is 0")
        predictions = torch.cat(parts)
        if self.trainer.is_global_zero:
            with replacing(file) as partial:
                save_file({"predictions": predictions.contiguous()}, partial)
            print(f"wrote {file}: predictions, shape {tuple(predictions.shape)}")

    @contextmanager
    def _run(self) -> Iterator[Run]:
        parent = Path(self._options.runs_dir, self._options.name)
        resumed = self._resumed if self._resumed is not None and self._resumed.has_folder else None
        if not self.trainer.is_global_zero:
            # A placeholder of a new run's: Lightning tells all processes the folder of the first.
            yield resumed or Run(parent / "version_0")
        elif resumed is not None:
            with locked(resumed.folder):
                yield resumed
        else:
            missing = [path for path in (parent, *parent.parents) if not path.exists()]
            run = Run.new(parent)
            try:
                with locked(run.folder):
                    yield run
            finally:
                # Empty folders are those of a training that did not begin.
                for path in (run.folder, *missing):
                    with suppress(OSError):
                        path.rmdir()


def train(args: Sequence[str]) -> None:
    """Run the command line.

    Raises:
        SettingError: If the user made a mistake.
        SystemExit: If a signal ended a training, with 128 plus its number.
    """
    # Models, data and norms of the user's own are found where the command is run, behind everything installed.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    for value in (*args, *(os.environ[name] for name in os.environ if name.startswith("PL_"))):
        check_file(value.partition("=")[2] or value)
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise SettingError(f"{os.fsencode(value)!r} is no UTF-8, as a configuration must be: rename it") from error
    with relevant_messages():
        try:
            TrainCLI(args)
        except MisconfigurationException as error:
            raise SettingError(str(error)) from error
        except Exception as error:
            if not is_of_a_callback(error):
                raise
            raise SettingError(f"trainer.callbacks: {error}") from error

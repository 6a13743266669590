"""What a training leaves behind, and what to do with it next."""

import shlex
from collections.abc import Sequence

from pytorch_lightning import Trainer
from rich.console import Console
from rich.table import Table

from lightning_modules.base import TrainingModule
from normlab import again, as_installed
from training.callbacks.checkpoint import read_best
from training.callbacks.step_axis import STEP
from training.run import Run
from training.wandb_logger import WandbLogger


def print_summary(trainer: Trainer, run: Run, interrupted: Sequence[str] | None = None) -> None:
    """Print the run's folder with what it holds, the last metrics and the commands that come next, from one process.

    Args:
        trainer: The trainer, after its ``fit`` has ended.
        run: The run.
        interrupted: The command line, without the program, if the training was ended before its last step. Then the
            command comes first that resumes it or, without a checkpoint, begins it anew.
    """
    if not trainer.is_global_zero:
        return
    console = Console(soft_wrap=True, highlight=False, markup=False)
    step, total = trainer.global_step, trainer.max_steps
    how, contents = "finished" if interrupted is None else "interrupted", _contents(run)
    # An empty folder will be gone.
    console.print(f"\n{how} after step {step} of {total}" + (f": {run.folder}" if contents else ""))
    for line in contents:
        console.print(f"  {line}")
    if trainer.logged_metrics:
        console.print(_metrics(trainer))
    if best := read_best(run):
        at = f"{best['value']:.5g} at step {best['step']}"
        last = trainer.logged_metrics.get(best["metric"])
        then = "" if last is None else f", last {float(last):.5g}"
        console.print(f"best {best['metric']}: {at}, in {run.best.relative_to(run.folder)}{then}")
    if interrupted is not None and not run.last.is_file():
        console.print(f"there is no checkpoint yet; begin anew with: {again(interrupted)}")
    commands = _commands(trainer, run, interrupted is not None)
    if commands:
        console.print("next:")
    for command in commands:
        console.print(f"  {command}")


def _contents(run: Run) -> list[str]:
    lines = []
    for path in sorted(run.folder.glob("[!.]*")):
        if not path.is_dir():
            lines.append(path.name)
        elif path == run.wandb:
            lines += [f"{path.name}/{part.name}" for part in sorted(path.glob("*run-*-*"))]
        elif files := sorted(path.iterdir()):
            lines.append(f"{path.name}/{files[-1].name}" + (f" and {len(files) - 1} more" if len(files) > 1 else ""))
    return lines


def _metrics(trainer: Trainer) -> Table:
    table = Table("metric", "last value")
    for key, value in sorted(trainer.logged_metrics.items()):
        if key not in ("epoch", STEP):
            table.add_row(key, f"{float(value):.5g}")
    return table


def _commands(trainer: Trainer, run: Run, interrupted: bool) -> list[str]:
    commands: list[str | None] = []
    last = run.last
    if interrupted and last.is_file():
        commands.append(run.resume_command())
    if last.is_file() and isinstance(trainer.lightning_module, TrainingModule):
        commands.append(trainer.lightning_module.next_command(run.folder))
    if run.mixing_steps():
        commands.append(shlex.join(["python", "analyze.py", str(run.folder), "-o", str(run.folder / "report")]))
    commands += [logger.sync_command for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    return [as_installed(command) for command in commands if command is not None]

"""What is told of a training that goes wrong, and of how to go on."""

from pathlib import Path
from typing import NamedTuple

from pytorch_lightning import LightningModule, Trainer

from normlab import as_installed
from training.callbacks.signs import LOWER_RATE
from training.run import Run


class Alarm(NamedTuple):
    """Hold what there is to tell of a training that goes wrong."""

    sign: str
    reason: str
    values: dict[str, float]
    advice: str = LOWER_RATE


def farewell(trainer: Trainer, run: Run, alarm: Alarm, promising: Path | None, gone_back: int | None) -> str:
    """Say why a training ends, what is kept of it, and which command leads on.

    Args:
        trainer: The trainer.
        run: The run.
        alarm: What has gone wrong.
        promising: The newest checkpoint that was saved when nothing was wrong yet; None if there is none.
        gone_back: How many times the training has gone back, if it does so at all.
    """
    rate, lower, begun = rate_of(trainer.lightning_module), alarm.advice == LOWER_RATE, run.last.is_file()
    checkpoint = promising if lower else None  # a resumed run may have no other setting than another rate
    how_on = "begin anew" if checkpoint is None else "go on"
    if checkpoint is not None:
        good = "" if checkpoint == run.last and alarm.sign != "not_finite" else "good "
        kept = f"the last {good}checkpoint is {checkpoint}"
    elif begun:
        kept = f"the last checkpoint, {run.last}, {'is no better' if lower else 'leads there again'}"
    else:
        kept = "there is no checkpoint yet"
    if gone_back is not None:
        times = f"it has gone back {gone_back} times already"
        kept = f"{times if gone_back else 'there is no good checkpoint to go back to'}; {kept}"
    if lower:
        options = [f"--model.lr={rate / 10:g}"] if rate else []
        how_on += " with a lower learning rate" if rate else " but give the model a lower learning rate"
    else:
        options = _less_of(trainer.lightning_module)
        how_on = f"{alarm.advice}; {how_on}{', for instance' if options else ''} with"
    command = as_installed(run.fit_command(checkpoint, *options))
    return f"step {trainer.global_step}: {alarm.reason}, so the training ends; {kept}; {how_on}: {command}"


def rate_of(module: LightningModule) -> float | None:
    """Return the setting ``lr`` of a module; None if it has none above 0."""
    rate = module.hparams.get("lr")
    return float(rate) if isinstance(rate, int | float) and rate > 0 else None


def _less_of(module: LightningModule) -> list[str]:
    """Return what makes a discriminator learn more slowly, as words of the command line."""
    factor = module.hparams.get("discriminator_lr_multiplier")
    return [f"--model.discriminator_lr_multiplier={factor / 10:g}"] if isinstance(factor, int | float) else []

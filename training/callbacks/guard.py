"""A training that goes wrong is told of, ends or goes back, and keeps what was good."""

import copy
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from lightning_utilities.core.rank_zero import rank_zero_warn
from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_modules.base import CheckpointError
from norms.errors import SettingError, check_range, unknown
from training.callbacks.alarms import Alarm, farewell, rate_of
from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.gans import is_gan
from training.callbacks.run_folder import RunFolder
from training.callbacks.signs import (
    SIGNS_IN_GANS,
    SIGNS_IN_LOSSES,
    GANLook,
    Sign,
    look_at_gan,
    training_losses,
)
from training.checkpoint_files import CheckpointFiles, read_checkpoint
from training.errors import RollbackError, end_training
from training.files import or_warn, replacing
from training.finite import may_be_infinite, named_values, not_finite
from training.fsdp import whole_networks
from training.run import Run
from training.wandb_logger import WandbLogger

ACTIONS = ("warn", "stop", "rollback")


class Guard(Callback):
    """Notice a training that goes wrong, tell of it, and end it or go back if that is asked for.

    Losses are looked at in every training: the metrics with ``loss`` in their names, and what the training step
    returns. On the CPU that is after every step. Other devices would have to wait for that, and so would several
    processes: there, every ``trainer.log_every_n_steps`` steps, when their values are read in any case. Weights are
    looked at before a checkpoint is written and at the end: every parameter and buffer, and the states of the
    optimizers. What holds infinities from the beginning, such as a mask, is meant to. GANs are looked at every
    ``every_n_steps`` steps, for the signs of :mod:`training.callbacks.signs`, and what is seen is logged: as
    ``guard/diversity`` the distance of images from fixed noise as a share of that of real ones, as ``guard/learning``
    what the discriminator has left to learn, as ``guard/sigma`` the largest singular value in the generator.

    What is not finite ends the training, or has it go back, whatever ``action`` is: it never replaces a checkpoint.
    Each sign is told once, by a warning, an alert of Weights & Biases and a line of ``events.jsonl``, and then

    - ``warn`` goes on;
    - ``stop`` ends the training, with a command: it goes on from a checkpoint that was saved before there was any sign,
      or begins anew;
    - ``rollback`` goes on from ``checkpoints/good.ckpt`` at a learning rate of ``lr_factor`` times the one before. That
      is the last checkpoint such that neither the look before nor one since has seen a sign. When it has gone back
      ``most_rollbacks`` times, or there is no such checkpoint, it does as ``stop``.

    A further way in which a training can go wrong is a class and a row of a table in :mod:`training.callbacks.signs`.

    Args:
        action: One of ``warn``, ``stop``, ``rollback``.
        every_n_steps: Steps between two looks at a GAN; null for none.
        lr_factor: What going back multiplies the learning rate with, between 0 and 1.
        most_rollbacks: How many times a training goes back at most.
    """

    def __init__(
        self,
        action: str = "warn",
        every_n_steps: int | None = 100,
        lr_factor: float = 0.1,
        most_rollbacks: int = 2,
    ) -> None:
        if action not in ACTIONS:
            raise unknown("guard.action", action, ACTIONS)
        check_range("guard.every_n_steps", every_n_steps, at_least=1)
        check_range("guard.lr_factor", lr_factor, above=0, below=1)
        check_range("guard.most_rollbacks", most_rollbacks, at_least=1)
        self.action = action
        self.every_n_steps = every_n_steps
        self.lr_factor = lr_factor
        self.most_rollbacks = most_rollbacks
        self._of_losses = [sign() for sign in SIGNS_IN_LOSSES]
        self._of_gans = [sign() for sign in SIGNS_IN_GANS]
        self._events: list[dict[str, Any]] = []
        self._rollbacks = 0
        self._rate: float | None = None
        self._run = Run("")
        self._every = 1
        self._has_looked = False
        self._infinite: set[str] = set()
        self._candidates: set[int] = set()

    @property
    def _signs(self) -> list[Sign[Any]]:
        return [*self._of_losses, *self._of_gans]

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to tell the same: what the signs remember, what was told and done."""
        signs = {sign.name: vars(sign) for sign in self._signs}
        return copy.deepcopy({"signs": signs, **self._history()})

    def _history(self) -> dict[str, Any]:
        return {"events": self._events, "rollbacks": self._rollbacks, "rate": self._rate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` has returned.

        Raises:
            CheckpointError: If it is something else.
        """
        state = copy.deepcopy(state_dict)
        try:
            for sign in self._signs:
                # A sign that there was not yet when it was written remembers nothing.
                kept = state["signs"].get(sign.name, {})
                vars(sign).update({key: _alike(value, kept.get(key, value)) for key, value in vars(sign).items()})
            self._events, self._rollbacks = _alike([], state["events"]), _alike(0, state["rollbacks"])
            self._rate = None if state["rate"] is None else _alike(0.0, state["rate"])
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError("what the checkpoint holds of the guard is damaged") from error

    def lowered(self, rate: float) -> float | None:
        """Return the learning rate that going back has put in the place of this one; None if it has not."""
        return self._rate if any(event.get("from_lr") == rate for event in self._events) else None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the run, and refuse to go back where that is not possible.

        Raises:
            SettingError: If there are no checkpoints, or no learning rate that could be lowered.
        """
        self._run = Run.of(trainer)  # which each process must ask
        if self.action != "rollback":
            return
        if not any(isinstance(callback, RunCheckpoint) for callback in _callbacks(trainer)):
            raise SettingError("guard.action rollback needs checkpoints: leave out trainer.enable_checkpointing: false")
        if not rate_of(pl_module):
            raise SettingError(
                f"guard.action rollback lowers the setting lr, which {type(pl_module).__name__} lacks or has at 0: "
                "choose warn or stop"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note how often to look, what is infinite already, and from where the training goes on."""
        alone = trainer.world_size == 1 and pl_module.device.type == "cpu"
        self._every = 1 if alone else cast(Any, trainer).log_every_n_steps  # which is not declared
        self._infinite = may_be_infinite(pl_module)
        step = trainer.global_step
        self._candidates = {step} if step and self._is_calm() else set()
        rate = rate_of(pl_module)
        if self._rate is not None and rate is not None and rate > self._rate:
            rank_zero_warn(
                f"the learning rate had been lowered to {self._rate:g} when the training went back; this run goes on "
                f"at {rate:g}, as it is configured"
            )
        if trainer.is_global_zero:
            self._write_events()
            good = self._good_step()
            if good is not None and good > step:
                self._run.good.unlink()  # it is of what is made anew

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the losses of a step and at a GAN, if it is time.

        Raises:
            TrainingError: If the training has gone wrong so that it ends or goes back.
        """
        step, of_gan = trainer.global_step, self.every_n_steps is not None and is_gan(pl_module)
        looks_at_losses = step % self._every == 0 or not self._has_looked or step == trainer.max_steps
        looks_at_gan = of_gan and step % cast(int, self.every_n_steps) == 0
        alarms: list[Alarm] = []
        if looks_at_losses:
            self._has_looked = True
            losses = training_losses(trainer, outputs)
            wrong = [f"{name} ({value})" for name, value in losses.items() if not math.isfinite(value)]
            self._end_if(trainer, _not_finite(wrong))
            alarms += _alarms(self._of_losses, losses, losses)
        with whole_networks(trainer) if looks_at_gan else nullcontext():
            seen = _look(pl_module, batch) if looks_at_gan and trainer.is_global_zero else None
        if seen is not None:
            values = _numbers(seen)
            self._log(trainer, values)
            alarms += _alarms(self._of_gans, seen, values)
        if looks_at_losses or looks_at_gan:
            self._act_on(trainer, alarms)
        if trainer.is_global_zero and (looks_at_gan or not of_gan):
            self._keep_good(step)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look at what is about to be saved.

        Raises:
            TrainingError: If some of it is not finite.
        """
        broken = not_finite(checkpoint["state_dict"].items(), self._infinite)
        states = named_values(checkpoint.get("optimizer_states", []), "the optimizer's state")
        self._end_if(trainer, _not_finite([*broken, *not_finite(states)]))
        if self._is_calm():
            self._candidates.add(trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the weights once more, before a last picture is made of them.

        Raises:
            TrainingError: If some of them are not finite.
        """
        self._end_if(trainer, _not_finite(not_finite(pl_module.state_dict().items(), self._infinite)))

    def _is_calm(self) -> bool:
        return not any(sign.in_a_row for sign in self._signs)

    def _keep_good(self, step: int) -> None:
        """Keep the last checkpoint as a good one, if this look has seen nothing, nor the one before it was saved."""
        if self.action != "rollback" or not (before := {each for each in self._candidates if each < step}):
            return
        self._candidates -= before
        if self._is_calm() and _step_of(self._run.last) in before:
            with or_warn(), replacing(self._run.good) as partial:
                shutil.copyfile(self._run.last, partial)

    def _good_step(self) -> int | None:
        return _step_of(self._run.good) if self.action == "rollback" else None

    def _end_if(self, trainer: Trainer, fault: str | None) -> None:
        # All processes have to end, whichever of them has found something.
        if trainer.strategy.reduce_boolean_decision(fault is not None, all=False):
            fault = fault or "in another process, a loss or tensor is not finite"
            self._act(trainer, Alarm("not_finite", fault, {}), "stop" if self.action == "warn" else self.action)

    def _act_on(self, trainer: Trainer, alarms: list[Alarm]) -> None:
        if self.action != "warn":
            alarms = trainer.strategy.broadcast(alarms)  # all processes act alike
        for alarm in alarms:
            if self.action != "warn" or trainer.is_global_zero:
                self._act(trainer, alarm, self.action)

    def _act(self, trainer: Trainer, alarm: Alarm, action: str) -> None:
        step, rate = trainer.global_step, rate_of(trainer.lightning_module)
        target = trainer.strategy.broadcast(self._good_step()) if action == "rollback" else None
        if target is None or self._rollbacks >= self.most_rollbacks:
            action, target = "stop" if action == "rollback" else action, None
        told = {"step": step, "sign": alarm.sign, "action": action, "reason": alarm.reason, "values": alarm.values}
        if target is not None and rate is not None:
            told |= {"to_step": target, "from_lr": rate, "lr": rate * self.lr_factor}
        self._tell(trainer, told)
        if action == "warn":
            rank_zero_warn(f"step {step}: {alarm.reason}; the training goes on, but {alarm.advice}")
        elif target is not None and rate is not None:
            self._go_back(trainer, f"step {step}: {alarm.reason}", target, rate * self.lr_factor)
        else:
            end_training(trainer, self._farewell(trainer, alarm))

    def _tell(self, trainer: Trainer, told: dict[str, Any]) -> None:
        self._events.append(told)
        if trainer.is_global_zero:
            self._write_events()
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.alert(f"{told['sign']} at step {told['step']}", f"{told['reason']} ({told['action']})")

    def _write_events(self) -> None:
        """Write all events, which are part of checkpoints, so that those of steps that are made anew are dropped."""
        if self._events or self._run.events.is_file():
            with or_warn(), replacing(self._run.events) as partial:
                partial.write_text("".join(f"{json.dumps(event)}\n" for event in self._events))

    def _log(self, trainer: Trainer, values: dict[str, float]) -> None:
        share = values["diversity"] / values["real_diversity"] if values["real_diversity"] else 0.0
        row = {"guard/diversity": share, "guard/learning": values["learning"], "guard/sigma": values["sigma"]}
        for logger in trainer.loggers:
            logger.log_metrics(row, trainer.global_step)
            logger.save()

    def _go_back(self, trainer: Trainer, reason: str, target: int, rate: float) -> None:
        self._rollbacks, self._rate = self._rollbacks + 1, rate
        for callback in _callbacks(trainer):
            if isinstance(callback, RunFolder):
                callback.go_back(trainer, target, rate)
        fault = None
        if trainer.is_global_zero:
            state = dict(read_checkpoint(self._run.good, mmap=False))
            state["callbacks"][self.state_key] |= copy.deepcopy(self._history())
            files = CheckpointFiles()
            files.save_checkpoint(state, self._run.last)
            fault = files.fault
        fault = trainer.strategy.broadcast(fault)  # and so all wait until it is there
        if fault is not None:
            end_training(trainer, f"{reason}, so the training has to go back; {fault}")
        how_often = f"{self._rollbacks} of at most {self.most_rollbacks} times"
        message = (
            f"{reason}; the training goes back to step {target} and on at a learning rate of {rate:g}, {how_often}"
        )
        rank_zero_warn(message)
        raise RollbackError(message, self._run.last, rate)

    def _farewell(self, trainer: Trainer, alarm: Alarm) -> str:
        gone_back = self._rollbacks if self.action == "rollback" else None
        return farewell(trainer, self._run, alarm, self._promising(alarm), gone_back)

    def _promising(self, alarm: Alarm) -> Path | None:
        """Find the newest checkpoint that was saved when nothing was wrong yet."""
        last, good = self._run.last, self._run.good
        if last.is_file() and (alarm.sign == "not_finite" or _step_of(last) in self._candidates):
            return last
        return good if self._good_step() is not None else None


def lowered_rate(checkpoint: Mapping[str, Any], rate: float) -> float | None:
    """Return the learning rate that a run goes on at whose command has not changed since it went back.

    Args:
        checkpoint: What the run resumes.
        rate: The setting ``lr`` of the command.

    Returns:
        The lowered rate; None if no rollback has lowered this one.

    Raises:
        CheckpointError: If what the checkpoint holds of the guard is damaged.
    """
    guard = Guard()
    state = checkpoint["callbacks"].get(guard.state_key)
    if state is not None:
        guard.load_state_dict(state)
    return guard.lowered(rate)


def _callbacks(trainer: Any) -> list[Callback]:
    return trainer.callbacks  # which is not declared


def _look(module: LightningModule, batch: Any) -> GANLook | None:
    """Look at a GAN; None if there is nothing to see, since something is not finite."""
    try:
        seen = look_at_gan(module, batch)
    except SettingError:
        return None
    return seen if all(math.isfinite(value) for value in _numbers(seen).values()) else None


def _alarms(signs: Sequence[Sign[Any]], seen: Any, values: dict[str, float]) -> list[Alarm]:
    """Look for signs."""
    found = [(sign, sign.look(seen)) for sign in signs]
    return [Alarm(sign.name, reason, values, sign.advice) for sign, reason in found if reason]


def _alike(value: Any, restored: Any) -> Any:
    if type(restored) is not type(value):
        raise TypeError(f"expected {type(value).__name__}, got {type(restored).__name__}")
    return restored


def _numbers(seen: GANLook) -> dict[str, float]:
    values = asdict(seen)
    return {"sigma": max(values.pop("sigmas").values(), default=0.0), **values}


def _step_of(checkpoint: Any) -> int | None:
    """Return the step of a checkpoint; None if there is none that can be read."""
    try:
        return int(read_checkpoint(checkpoint)["global_step"])
    except (SettingError, KeyError):
        return None


def _not_finite(broken: list[str]) -> str | None:
    if not broken:
        return None
    return (
        f"{broken[0]} is not finite" if len(broken) == 1 else f"{broken[0]} and {len(broken) - 1} more are not finite"
    )

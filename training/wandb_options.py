"""What a user can set about Weights & Biases, and what a run tells it of itself."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any, Literal

from norms.errors import SettingError, unknown
from training.repetitions import settings_of
from training.run import Run

MODES = ("online", "offline", "disabled")

LONGEST_TAG = 64
"""Characters; W&B takes no more."""


class WandbOptions:
    """Set where Weights & Biases records a run, and under which names.

    What is not given is as W&B's variables say, such as ``WANDB_PROJECT`` or ``WANDB_MODE``, and then as told here.

    Args:
        project: The project; ``normlab`` by default.
        entity: The team or user that it belongs to; that of the login by default.
        group: What runs are grouped by; by default the name of the run, or of its sweep, and a hash of all settings
            that training follows from but seeds, so that the seeds of one configuration are a group.
        job_type: Of the run; ``fit`` by default.
        tags: Further tags, a list or a text with commas; the module's class and the norm are always tags.
        notes: Anything about the run.
        mode: ``online``, ``offline`` or ``disabled``; by default online for who is logged in, and else offline.
        log_model: Whether to keep the last and the best checkpoint, and the tables of the run's end, as artifacts;
            ``all`` keeps each checkpoint that is saved.
        name: The run's name in W&B; by default the end of its folder, such as ``gan/version_0``.

    Raises:
        SettingError: If W&B would refuse a value.
    """

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: list[str] | str | None = None,
        notes: str | None = None,
        mode: str | None = None,
        log_model: bool | Literal["all"] = False,
        name: str | None = None,
    ) -> None:
        if mode is not None and mode not in MODES:
            raise unknown("wandb.mode", mode, MODES)
        tags = tags.split(",") if isinstance(tags, str) else tags
        for tag in tags or ():
            if not 1 <= len(tag.strip()) <= LONGEST_TAG:
                raise SettingError(f"wandb.tags: a tag has 1 to {LONGEST_TAG} characters, got {tag!r}")
        if project is not None:
            _check_project(project)
        self.project, self.entity, self.group, self.job_type = project, entity, group, job_type
        self.tags, self.notes, self.mode, self.log_model, self.name = tags, notes, mode, log_model, name

    @property
    def is_disabled(self) -> bool:
        """Whether W&B is left out."""
        return (self.mode or os.environ.get("WANDB_MODE")) == "disabled"

    def arguments(self, run: Run, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of ``wandb.init`` that describe a run.

        Args:
            run: The run.
            config: Its configuration.
        """
        variables = os.environ
        tags = variables.get("WANDB_TAGS", "").split(",") if self.tags is None else self.tags
        group = None if variables.get("WANDB_RUN_GROUP") else group_of(config, run.series)
        job_type = None if variables.get("WANDB_JOB_TYPE") else "fit"
        return {
            "project": self.project or variables.get("WANDB_PROJECT") or "normlab",
            "entity": self.entity,
            "group": self.group or group,
            "job_type": self.job_type or job_type,
            "tags": list(dict.fromkeys(tag.strip() for tag in [*_tags(config), *tags] if tag.strip())),
            "notes": self.notes,
            "name": self.name or variables.get("WANDB_NAME") or run.name,
        }


def group_of(config: Mapping[str, Any], name: str) -> str | None:
    """Return what the runs of all seeds of a configuration have in common; None of an empty configuration.

    Args:
        config: The configuration.
        name: What it begins with.
    """
    settings = sorted(settings_of(config))
    return f"{name}-{hashlib.sha256(repr(settings).encode()).hexdigest()[:6]}" if settings else None


def _tags(config: Mapping[str, Any]) -> list[str]:
    model = config.get("model") or {}
    chosen = (model.get("class_path"), (model.get("init_args") or {}).get("norm"))
    return [each.rpartition(".")[2][:LONGEST_TAG] for each in chosen if isinstance(each, str)]


def _check_project(project: str) -> None:
    import wandb

    try:
        wandb.Settings(project=project)
    except wandb.Error as error:
        raise SettingError(f"wandb.project: {error}") from error

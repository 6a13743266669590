"""The paths of a run: the one place that knows where a run keeps what."""

from __future__ import annotations

import re
from pathlib import Path

VERSION = re.compile(r"version_(\d+)")

SWEEP_RECORD = "sweep.json"
"""The file beside the versions of a run that says that it belongs to a sweep, whose folder is above."""


class RunPaths:
    """Name the files and folders of a run; nothing is read or made.

    Args:
        folder: The run's folder, such as ``runs/gan/version_0``.
        checkpoint: The checkpoint that is meant, if it is not the newest of the folder.
    """

    def __init__(self, folder: str | Path, checkpoint: Path | None = None) -> None:
        self.folder = Path(folder)
        self._checkpoint = checkpoint

    @property
    def version(self) -> int:
        """The number in the folder's name, -1 if there is none."""
        match = VERSION.fullmatch(self.folder.name)
        return int(match[1]) if match else -1

    @property
    def name(self) -> str:
        """The end of the folder's path, such as ``gan/version_0``."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def series(self) -> str:
        """What the run is called together with those that it is compared with: its sweep's name, or else its own."""
        folder = self.folder.parent
        return folder.parent.name if (folder / SWEEP_RECORD).is_file() else folder.name

    @property
    def has_folder(self) -> bool:
        """Whether this is more than a checkpoint that lies somewhere else than in a run's folder."""
        return self._checkpoint is None or self._checkpoint.parent.name == self.checkpoints.name

    @property
    def config(self) -> Path:
        """The configuration that the run began with."""
        return self.folder / "config.yaml"

    def resumed_config(self, step: int) -> Path:
        """Return where the configuration is kept with which the run went on at ``step``."""
        return self.folder / f"config_resumed_{step:07d}.yaml"

    @property
    def newest_config(self) -> Path:
        """The configuration that the run began with or, if it was resumed, went on with last."""
        return max(self.folder.glob("config_resumed_*.yaml"), default=self.config)

    @property
    def metrics(self) -> Path:
        """The table of metrics."""
        return self.folder / "metrics.csv"

    @property
    def events(self) -> Path:
        """The list of what the guard has told, one JSON object a line."""
        return self.folder / "events.jsonl"

    @property
    def spectral(self) -> Path:
        """The table of what the spectral monitor has seen of each layer."""
        return self.folder / "spectral.csv"

    @property
    def spectral_plot(self) -> Path:
        """The picture of it."""
        return self.folder / "spectral.png"

    @property
    def samples(self) -> Path:
        """The folder of sample pictures."""
        return self.folder / "samples"

    def sample(self, step: int) -> Path:
        """Return where the picture after ``step`` steps is kept."""
        return self.samples / f"step_{step:07d}.png"

    @property
    def scores(self) -> Path:
        """The folder of the numbers for generated images, with what they are of."""
        return self.folder / "metrics"

    def score(self, step: int, stage: str = "") -> Path:
        """Return where the numbers after ``step`` steps are kept: the training's own, or those of ``stage``."""
        return self.scores / f"{f'{stage}_' if stage else ''}step_{step:07d}.json"

    @property
    def mixing(self) -> Path:
        """The folder of mixing values."""
        return self.folder / "mixing"

    @property
    def mixing_kinds(self) -> Path:
        """The description of the kinds of mixing values."""
        return self.mixing / "kinds.json"

    @property
    def mixing_layers(self) -> Path:
        """The shapes of what the layers with mixing values work on."""
        return self.mixing / "layers.json"

    def mixing_values(self, step: int) -> Path:
        """Return where the mixing values after ``step`` steps are kept."""
        return self.mixing / f"step_{step:07d}.npz"

    def mixing_steps(self) -> dict[int, Path]:
        """Return the files of mixing values that are there, by step, the first step first."""
        files = ((re.fullmatch(r"step_(\d+)", path.stem), path) for path in self.mixing.glob("step_*.npz"))
        return dict(sorted((int(match[1]), path) for match, path in files if match))

    def records_from(self, step: int) -> list[Path]:
        """List the files that a run which goes on at ``step`` writes again: numbers come before a checkpoint."""
        files = [(path, step) for folder in (self.mixing, self.samples) for path in folder.glob("step_*.*")]
        files += [(path, step) for path in self.folder.glob("config_resumed_*.yaml")]
        files += [(path, step + 1) for path in self.scores.glob("step_*.*")]
        matches = [(path, re.fullmatch(r"(?:step|config_resumed)_(\d+)", path.stem), least) for path, least in files]
        return [path for path, match, least in matches if match and int(match[1]) >= least]

    def partials(self) -> list[Path]:
        """List the files that a process which was killed has half written."""
        return sorted(self.folder.rglob("*.partial"))

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"

    @property
    def last(self) -> Path:
        """The checkpoint that a run goes on from."""
        return self.checkpoints / "last.ckpt"

    @property
    def best(self) -> Path:
        """The checkpoint with the best value of what ``checkpoint.monitor`` names."""
        return self.checkpoints / "best.ckpt"

    @property
    def best_record(self) -> Path:
        """Which value that is, and of which step."""
        return self.checkpoints / "best.json"

    @property
    def good(self) -> Path:
        """The last checkpoint after which the guard has seen nothing wrong, if it is to go back to such ones."""
        return self.checkpoints / "good.ckpt"

    def step_checkpoint(self, step: int) -> Path:
        """Return where the checkpoint of ``step`` is kept, if the run keeps all of them."""
        return self.checkpoints / f"step_{step:07d}.ckpt"

    @property
    def wandb(self) -> Path:
        """The folder of Weights & Biases."""
        return self.folder / "wandb"

    @property
    def wandb_id(self) -> Path:
        """The file that keeps the id of the W&B run, so that a resumed run is the same one."""
        return self.wandb / "run_id"

    @property
    def predictions(self) -> Path:
        """The file that ``predict`` writes."""
        return self.folder / "predictions.safetensors"

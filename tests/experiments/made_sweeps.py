"""Folders of sweeps as the runner leaves them, made up without a training."""

import json
from pathlib import Path

import yaml

from sweeping.commands import command_of
from sweeping.sweep_file import read_sweep

SWEEP = {
    "name": "made",
    "command": ["${interpreter}", "${program}", "fit", "--config", "classifier", "${args}"],
    "method": "grid",
    "metric": {"name": "val/accuracy", "goal": "maximize"},
    "parameters": {"model.norm": {"values": ["none", "batch"]}, "seed": {"values": [0, 1, 2]}},
}

MACHINE = "a made-up machine"


def write_sweep(folder, **changes):
    """Write the file of a sweep, and return what is read of it."""
    content = {**SWEEP, **changes}
    file = Path(folder) / f"{content['name']}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file, read_sweep(file)


def write_run(runs_dir, sweep, number, settings, rows, state="finished", events=(), overrides=(), seconds=60.0):
    """Write a run whose metrics are ``rows``, each a mapping with ``step``, and return the folder of its training."""
    run = Path(runs_dir) / sweep.name / f"{number:03}-made"
    version = run / "version_0"
    version.mkdir(parents=True)
    record = {
        "settings": settings,
        "command": command_of(sweep, settings, overrides),
        "state": state,
        "error": "",
        "seconds": seconds,
        "ended": 0.0,
        "machine": MACHINE,
    }
    (run / "sweep.json").write_text(json.dumps(record))
    names = ["step", *sorted({name for row in rows for name in row} - {"step"})]
    lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    (version / "metrics.csv").write_text("\n".join(lines) + "\n")
    config = {
        "trainer": {"max_steps": 100},
        "model": {"class_path": "lightning_modules.Classifier"},
        "data": {"class_path": "data.BundledDigits", "init_args": {"batch_size": 64}},
    }
    (version / "config.yaml").write_text(yaml.safe_dump(config))
    if events:
        (version / "events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
    return version


def write_grid(runs_dir, sweep, values):
    """Write a finished run for each point of a grid, with the accuracy that ``values`` gives for its settings."""
    for number, settings in enumerate(sweep.grid(), 1):
        rows = [
            {"step": step, "val/accuracy": values(settings) * step / 100, "train/loss": 1 / step}
            for step in range(10, 101, 10)
        ]
        write_run(runs_dir, sweep, number, settings, rows)

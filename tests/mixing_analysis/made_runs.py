"""Runs with invented values, for the tests of what is drawn of them; and runs of W&B, ended for good."""

import subprocess
import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import wandb_stand_ins

from mixing_analysis.values import Run, frame
from training.layer_shapes import LayerShape


def make_run(
    name,
    group=None,
    seed=0,
    steps=(0, 50, 100),
    layers=4,
    channels=8,
    switches=2,
    gamma=True,
    drift=0.5,
    spread=1.0,
    config=None,
    shapes=False,
    metrics=None,
):
    """A run whose rho falls from 1, and whose switch weights leave a third."""
    random = np.random.default_rng(seed)
    fall = random.random((layers, channels + 2 * layers)) * drift
    logits = spread * random.normal(size=(switches, 2, 3))
    values = {}
    for step in steps:
        progress = step / max(1, max(steps))
        arrays = values[step] = {}
        for layer in range(layers):
            rho = 1 - progress * fall[layer, : channels + 2 * layer]
            arrays[f"{layer:02d}.block.norm{layer}/rho"] = rho.astype(np.float32)
        for layer in range(switches):
            weights = np.exp(progress * logits[layer])
            weights = (weights / weights.sum(-1, keepdims=True)).astype(np.float32)
            prefix = f"{layers + layer:02d}.block.switch{layer}"
            arrays |= {f"{prefix}/mean_weight": weights[0], f"{prefix}/var_weight": weights[1]}
        if gamma and step == max(steps):
            gammas = {
                key.replace("/rho", "/gamma"): (rho * 0.3 + random.normal(1, 0.1, len(rho))).astype(np.float32)
                for key, rho in arrays.items()
                if key.endswith("/rho")
            }
            arrays |= gammas
    found = Run(name, f"runs/{name}", frame(values), group or name, config=config, metrics=metrics or {})
    return replace(found, shapes=make_shapes(found)) if shapes else found


def make_shapes(run):
    """Shapes of layers whose channels double with every other layer, where the resolution halves."""
    return {
        layer: LayerShape(3, 8 << min(4, depth // 2), (9, 9) if depth == 0 else (3, 3), (max(4, 64 >> depth // 2),) * 2)
        for depth, layer in enumerate(run.architecture)
    }


def two_groups(seeds=3, **options):
    """Seeds of two groups; in the second, rho falls further."""
    return [
        make_run(f"{group}/version_{seed}", group, seed=10 * number + seed, drift=drift, **options)
        for number, (group, drift) in enumerate((("slow", 0.4), ("fast", 0.9)))
        for seed in range(seeds)
    ]


def end_wandb(logger, run_dir, seconds=120):
    """End a W&B run that is logged offline, and wait until its file has the end, which another process writes."""
    logger.finalize("success")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(subprocess.CalledProcessError):  # in the middle of a record
            if wandb_stand_ins.records(run_dir, "exit"):
                return
        time.sleep(0.2)
    raise AssertionError(f"W&B has not written the end of the run in {run_dir} after {seconds} s")

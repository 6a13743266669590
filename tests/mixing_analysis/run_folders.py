"""Run folders with invented values of rho, as a training would have left them."""

import numpy as np
import yaml

FALLS = {"slow": 0.2, "fast": 0.7}
"""From what a run's norm is called to how far rho falls."""


def make(folder, norm, seed, layers=2, channels=8):
    """A run whose rho falls from 1 over 100 steps, by a little more or less for each seed."""
    (folder / "mixing").mkdir(parents=True)
    config = {"seed_everything": seed, "model": {"class_path": "M", "init_args": {"norm": norm, "seed": seed}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    random = np.random.default_rng(seed)
    for step in (0, 50, 100):
        fall = FALLS[norm] + 0.05 * random.normal(size=(layers, channels))
        values = np.clip(1 - step / 100 * fall, 0, 1).astype(np.float32)
        arrays = {f"block.norm{layer}/rho": own for layer, own in enumerate(values)}
        np.savez(folder / "mixing" / f"step_{step:07d}.npz", **arrays)

"""Teach a network the style of your own picture: python examples/own_style.py [PICTURE] [STEPS].

The default is a picture drawn here, and a few seconds of training of a tiny network, which show how it is done and no
more. For a result give it 600 steps, and leave out the settings under "tiny". `train.py` and `stylize.py` do the same.
"""

import os
import sys

import numpy as np
import pandas
import torch
from PIL import Image
from skimage.data import coffee

from lightning_modules import StyleTransfer
from training.command import main
from training.run import Run


def draw(file: str) -> str:
    """Draw rings of paint."""
    y, x = np.mgrid[:256, :256] / 256 - 0.5
    waves = [np.sin(50 * np.hypot(x - 0.1 * k, y + 0.1 * k) + 2 * k) for k in range(3)]
    Image.fromarray(np.uint8(127.5 + 127 * np.stack(waves, axis=-1))).save(file)
    return file


picture = sys.argv[1] if len(sys.argv) > 1 else draw("rings.png")
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 20

os.environ.setdefault("WANDB_MODE", "disabled")
settings = {
    "name": "own_style",
    "model.style": picture,
    "trainer.max_steps": steps,
    "trainer.val_check_interval": steps // 2,
    "samples.every_n_steps": steps,
}
tiny = {
    "model.start": "null",
    "model.widths": [8, 16, 16],
    "model.num_blocks": 1,
    "model.style_size": 128,
    "data.image_size": 64,
}
options = [f"--{key}={value}" for key, value in {**settings, **tiny}.items()]
if status := main(["fit", "--config", "style_transfer", *options]):
    sys.exit(status)

run = Run.find("runs/own_style")
scores = pandas.read_csv(run.metrics)["val/style"].dropna()
print(f"style loss of held-out photos: {scores.iloc[0]:.3f} after half of the steps, {scores.iloc[-1]:.3f} after all")

photo = torch.tensor(coffee()[::2, ::2]).permute(2, 0, 1) / 255
with torch.no_grad():
    painted = run.load(StyleTransfer)(photo[None])[0]
Image.fromarray((painted * 255).byte().permute(1, 2, 0).numpy()).save("painted.png")
print("wrote painted.png")

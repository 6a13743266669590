"""Pictures during a training."""

import numpy as np
import pytest
import torch
import wandb_stand_ins
from PIL import Image
from stand_ins import PlainModel, TinyModel, fit

from norms.errors import SettingError
from training.callbacks.samples import SampleImages
from training.wandb_logger import WandbLogger


def names(run_dir):
    return sorted(path.name for path in run_dir.glob("samples/*"))


def test_saves_what_the_module_draws(tmp_path):
    model = TinyModel()
    fit(tmp_path, [SampleImages(5)], model, loggers=[WandbLogger(tmp_path)])
    assert names(tmp_path) == [f"step_{step:07d}.png" for step in (0, 5, 10, 12)]
    saved = torch.from_numpy(np.array(Image.open(tmp_path / "samples/step_0000012.png"))).permute(2, 0, 1) / 255
    torch.testing.assert_close(saved, model.sample_grid().clamp(0, 1), atol=0.5 / 255 + 1e-6, rtol=0)
    steps = [row["trainer/global_step"] for row in wandb_stand_ins.rows(tmp_path) if row.get("samples.count") == 1]
    assert steps == [0, 5, 10, 12]
    captions = [row["samples.captions"] for row in wandb_stand_ins.rows(tmp_path) if "samples.captions" in row]
    assert captions == [[f"step {step}: {TinyModel.sample_caption}"] for step in steps]


def test_draws_the_last_step_once(tmp_path):
    fit(tmp_path, [SampleImages(5)], max_steps=10)
    assert names(tmp_path) == [f"step_{step:07d}.png" for step in (0, 5, 10)]


def test_takes_gray_pictures_and_values_outside_the_range(tmp_path):
    model = TinyModel()
    model.sample_grid = lambda: torch.tensor([[[-1.0, 0.5, 2.0]]])
    fit(tmp_path, [SampleImages(5)], model, max_steps=1)
    assert np.array(Image.open(tmp_path / "samples/step_0000001.png")).tolist() == [[0, 128, 255]]


def test_a_module_that_makes_no_pictures_is_left_alone(tmp_path):
    fit(tmp_path, [SampleImages(5)], PlainModel())
    assert names(tmp_path) == []


def test_refuses_an_impossible_interval():
    with pytest.raises(SettingError, match="every_n_steps must be at least 1, got 0"):
        SampleImages(0)

"""What W&B shows of the mixing values by itself, and the pictures of layers by steps."""

import matplotlib as mpl
import numpy as np
import pytest
import wandb_stand_ins
from PIL import Image
from stand_ins import fit

from norms.kinds import MEAN_WEIGHT, RHO, VAR_WEIGHT, MixingKind
from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.mixing import MixingValues
from training.callbacks.mixing_plot import MOST_COLUMNS, chosen, heat_map, layer_means
from training.callbacks.run_folder import RunFolder
from training.command import main
from training.run import Run
from training.wandb_logger import WandbLogger

WHOLE = {f"rho/all/{name}" for name in ("mean", "share_below_0_1", "share_above_0_9")}
WHOLE |= {f"switch/all/{moment}/{name}" for moment in ("mean", "var") for name in ("instance", "layer", "batch")}


def trained(folder, callback=None, max_steps=5, **options):
    logger = WandbLogger(folder)
    fit(folder, [callback or MixingValues(1)], loggers=[logger], max_steps=max_steps, **options)


def test_panels_are_of_the_whole_network_and_the_history_has_all(tmp_path):
    trained(tmp_path)
    panels = wandb_stand_ins.panels(tmp_path)
    assert {key for key in panels if key.startswith(("rho", "switch", "heat", "final"))} == {
        *WHOLE,
        "heat_map/rho",
        "heat_map/switch",
    }
    assert not {"trainer/global_step", "epoch"} & panels
    last = wandb_stand_ins.rows(tmp_path)[-1]
    assert {"rho/00_norm1/mean", "switch/01_norm2/var/batch", "rho/all/std", "final/rho.path"} <= last.keys()
    hidden = [metric for metric in wandb_stand_ins.records(tmp_path, "metric") if metric["options"].get("hidden")]
    layers = [metric for metric in hidden if metric["name"].startswith("rho/00")]
    assert len(layers) == 7, "six numbers and a histogram"
    assert all(metric["step_metric"] == "trainer/global_step" for metric in layers)


def test_single_layers_have_panels_by_an_option(tmp_path):
    trained(tmp_path, MixingValues(1, wandb_layers=True))
    panels = wandb_stand_ins.panels(tmp_path)
    assert {"rho/00_norm1/mean", "rho/00_norm1/histogram", "rho/all/std", "final/switch", *WHOLE} <= panels


def pictures(run_dir):
    """From the step to the caption of the picture of rho."""
    rows = [row for row in wandb_stand_ins.rows(run_dir) if "heat_map/rho._type" in row]
    return {row["_step"]: row["heat_map/rho.caption"] for row in rows}


def test_heat_maps_are_drawn_ever_more_rarely_and_in_the_end(tmp_path):
    trained(tmp_path, max_steps=18)
    found = pictures(tmp_path)
    assert list(found) == [16, 18]
    assert found[18] == "each layer, from the input (top) to the output, at steps 0 to 18"
    (file,) = tmp_path.glob("wandb/offline-run-*/files/media/images/heat_map/switch_18_*.png")
    assert Image.open(file).width > 1000


def test_a_heat_map_of_a_resumed_run_begins_where_the_run_did(tmp_path):
    callbacks = [RunFolder("name: a\n"), MixingValues(2), RunCheckpoint(3, keep_all=True)]
    fit(tmp_path, callbacks, max_steps=4)
    logger = WandbLogger(tmp_path)
    fit(tmp_path, callbacks, loggers=[logger], max_steps=6, ckpt_path=Run(tmp_path).step_checkpoint(3))
    assert pictures(tmp_path)[6].endswith("at steps 0 to 6")


def test_numbers_of_a_heat_map():
    blend = MixingKind("blend", labels=("plain", "scaled"))
    steps = {
        0: {"first/rho": np.array([0, 1.0]), "b.c/blend": np.array([0.25, 0.75]), "last/rho": np.array([1.0])},
        5: {"first/rho": np.array([0.5, 0.25, 0.0]), "b.c/blend": np.array([0.5, 0.5])},
    }
    layers, means = layer_means(steps, RHO)
    assert layers == ["first", "last"]
    np.testing.assert_array_equal(means, [[[0.5, 0.25], [1, np.nan]]])
    layers, means = layer_means(steps, blend)
    assert layers == ["b.c"]
    np.testing.assert_array_equal(means, [[[0.25, 0.5]], [[0.75, 0.5]]])


def colors(image):
    """The share of the picture that each color has, and the mean height at which it is."""
    pixels = np.asarray(image.convert("RGB"))
    found = {}
    for value in (0.0, 1.0):
        expected = np.array(mpl.colormaps["viridis"](value)[:3]) * 255
        there = (np.abs(pixels - expected) < 2).all(2)
        found[value] = (there.mean(), np.nonzero(there)[0].mean() / len(pixels))
    return found


def test_the_input_of_the_network_is_at_the_top():
    image = heat_map({step: {"a/rho": np.zeros(2), "b/rho": np.ones(2)} for step in (0, 1, 2)}, [RHO])
    found = colors(image)
    assert found[0][0] > 0.15
    assert found[1][0] > 0.15
    assert found[0][1] < found[1][1]


@pytest.mark.parametrize("kinds", [[RHO], [MEAN_WEIGHT, VAR_WEIGHT], [RHO, MEAN_WEIGHT]])
def test_many_layers_and_any_kinds_can_be_drawn(kinds):
    arrays = {f"layer{i}/{kind.name}": np.full(len(kind.labels) or 5, 1 / 3) for i in range(90) for kind in kinds}
    image = heat_map({0: arrays}, kinds)
    assert image.height < 2000
    assert len(set(image.convert("L").getdata())) > 10


def test_a_long_training_is_thinned_evenly():
    steps = list(range(0, 50 * 1001, 50))
    found = chosen(steps)
    assert len(found) == MOST_COLUMNS
    assert (found[0], found[-1]) == (0, 50_000)
    assert max(np.diff(found)) <= 1.2 * min(np.diff(found))
    assert chosen([0, 3]) == [0, 3]


def test_without_files_there_is_no_heat_map_and_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "mixing_steps", lambda self: {})
    trained(tmp_path, max_steps=2)
    assert pictures(tmp_path) == {}
    assert "rho/00_norm1/histogram._type" in wandb_stand_ins.rows(tmp_path)[-1]


def test_a_gan_with_all_that_it_can_log_has_fifteen_panels(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    few = "--data.batch_size 4 --trainer.max_steps 2 --trainer.val_check_interval 2 --trainer.log_every_n_steps 1"
    scores = "--metrics.every_n_steps 2 --metrics.images 70 --metrics.val_images 70"
    more = "--model.penalties.r1 1 --model.augment adaptive --trainer.accelerator cpu"
    assert (
        main(["fit", "--config", "gan", "--runs_dir", str(tmp_path), *few.split(), *scores.split(), *more.split()]) == 0
    )
    logged = wandb_stand_ins.rows(tmp_path / "gan/version_0")[-1]
    assert {"train/penalty", "train/augment_probability", "val/fd_garments"} <= logged.keys()
    assert len(wandb_stand_ins.panels(tmp_path / "gan/version_0")) == 15

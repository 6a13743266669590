"""Networks of which one layer at a time is forced by hand, and what is said of that."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from pandas import DataFrame
from scipy import stats
from test_binarized import Predicting, run_of, set_, training_images, validation_images

import norms
from data import BundledDigits
from data.stream import generator
from lightning_modules.classifier import Classifier
from lightning_modules.gan import GAN
from mixing_analysis import ablation, binarized, needs
from mixing_analysis.ablation import COLUMNS, _split
from mixing_analysis.evaluations import LATENTS
from norms.errors import SettingError


class Squared(Predicting):
    """Has a loss that is the same for images alone and together."""

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.net(batch["image"]).square().mean(), batch_size=len(batch["image"]))


def ablate(run, batches=32, **options):
    found = ablation.ablate(run, batches, ("stand_ins", "test_ablation", "test_binarized"), **options)
    assert tuple(found.columns) == COLUMNS
    return found


@pytest.fixture
def model():
    """A network of a gated layer and a switched one, which have not chosen."""
    torch.manual_seed(0)
    model = Squared()
    set_(model.net.norm1.rho, [0.2, 0.6, 0.5, 0.9])
    set_(model.net.norm1.running_mean, [0.5, 0.1, -0.2, 0.3])
    set_(model.net.norm2.mean_weight, [0.3, 1.0, 2.0])
    set_(model.net.norm2.var_weight, [1.5, 1.0, 0.0])
    return model.eval()


def score(model, images):
    """What the tiny model's validation logs, by hand."""
    with torch.no_grad():
        return model.net(torch.from_numpy(images).float()).square().mean().item()


WAYS = [
    ("norm1", "binarized"),
    ("norm1", "instance"),
    ("norm1", "batch"),
    ("norm2", "binarized"),
    ("norm2", "instance"),
    ("norm2", "layer"),
    ("norm2", "batch"),
]


def force(layer, forced):
    """Force a layer, written out."""
    if hasattr(layer, "rho"):
        gates = {"binarized": layer.rho.detach().round(), "instance": torch.zeros(4), "batch": torch.ones(4)}
        layer.rho.data = torch.where(layer.rho == 0.5, 1.0, gates[forced]) if forced == "binarized" else gates[forced]
        return
    for logits in (layer.mean_weight, layer.var_weight):
        index = int(logits.argmax()) if forced == "binarized" else ["instance", "layer", "batch"].index(forced)
        logits.data = torch.full((3,), -200.0).index_fill(0, torch.tensor(index), 200.0)


@pytest.mark.parametrize("statistics", ["as trained", "recalibrated"])
def test_each_layer_is_forced_as_by_hand_and_all_else_is_as_learned(model, statistics, tmp_path):
    found = ablate(run_of(model, tmp_path), batches=4).set_index(["layer", "forced", "statistics"])
    images, population = validation_images(), torch.from_numpy(training_images(4)).float()
    for layer, forced in WAYS:
        pair = copy.deepcopy(model), copy.deepcopy(model)
        force(getattr(pair[1].net, layer), forced)
        if statistics == "recalibrated":
            for each in pair:
                norms.recalibrate(each.net, population.chunk(4))
        row = found.loc[(layer, forced, statistics)]
        assert row["depth"] == int(layer[-1]) - 1
        expected = [score(each, images) for each in pair]
        assert [row["learned"], row["ablated"]] == pytest.approx(expected, rel=1e-4)
    assert len(found) == 2 * len(WAYS)


def test_the_interval_is_that_of_the_paired_differences_of_parts(model, tmp_path):
    found = ablate(run_of(model, tmp_path)).set_index(["layer", "forced", "statistics"])
    other = copy.deepcopy(model)
    force(other.net.norm1, "instance")
    pairs = [[score(each, image[None]) for each in (model, other)] for image in validation_images()]
    difference = np.diff(pairs, axis=1)[:, 0]
    row = found.loc[("norm1", "instance", "as trained")]
    assert row["parts"] == len(difference) == 12
    expected = stats.ttest_1samp(difference, 0).confidence_interval(1 - 0.05 / 2)  # of two layers at once
    assert [row["low"], row["high"]] == pytest.approx(list(expected), rel=1e-3)


def test_the_network_is_as_before_and_what_is_pure_already_costs_nothing(model, tmp_path):
    set_(model.net.norm1.rho, [1.0, 1, 1, 1])
    run = run_of(model, tmp_path)
    told = []
    found = ablate(run, progress=lambda done, total: told.append((done, total))).set_index(["layer", "forced"])
    assert told == [(done, 2 * len(WAYS)) for done in range(1, 2 * len(WAYS) + 1)]
    for forced in ("binarized", "batch"):
        rows = found.loc[("norm1", forced)]
        assert (rows["ablated"] == rows["learned"]).all()
        assert (rows[["low", "high"]] == 0).all(axis=None)
    rows = found.loc[("norm1", "instance")]
    assert (rows["ablated"] != rows["learned"]).all()


def test_the_learned_network_scores_as_where_its_gates_are_binarized(model, tmp_path):
    run = run_of(model, tmp_path)
    trusted = ("stand_ins", "test_ablation", "test_binarized")
    for batches in (1, 3):
        elsewhere = binarized.evaluate(run, batches, trusted).set_index("statistics")["learned"]
        found = ablate(run, batches).groupby("statistics")["learned"].first()
        assert found.to_dict() == pytest.approx(elsewhere.to_dict(), rel=1e-5)


def test_no_more_batches_than_allowed(model, tmp_path):
    row = ablate(run_of(model, tmp_path), batches=1).iloc[0]
    assert row["learned"] == pytest.approx(score(model, validation_images()[:6]), rel=1e-5)
    assert row["parts"] == 6


def test_a_generator_is_ablated_as_by_hand(tmp_path):
    torch.manual_seed(0)
    options = {"architecture": "cnn28", "architecture_options": {"width": 0.25}, "channels": 1, "latent_dim": 4}
    gan = GAN(norm="batch_instance", **options)
    for _, layer in norms.mixing_layers(gan):
        torch.nn.init.uniform_(layer.rho)
    found = ablate(run_of(gan, tmp_path))
    names = [name for name, _ in norms.mixing_layers(gan.generator)]
    assert found["depth"].nunique() == len(names)
    latents = torch.randn(LATENTS, 4, generator=generator(gan.seed, 0))
    other = copy.deepcopy(gan).eval()
    other.generator.get_submodule(names[1]).rho.data.fill_(0.0)
    with torch.no_grad():
        before, after = gan.eval().generator(latents) / 2, other.generator(latents) / 2
        change = (after - before).unflatten(0, (16, -1)).square().mean((1, 2, 3, 4)).sqrt().mean().item()
        d_fake = [gan.discriminator(2 * images).mean().item() for images in (before, after)]
    rows = found[(found["depth"] == 1) & (found["forced"] == "instance") & (found["statistics"] == "as trained")]
    rows = rows.set_index("metric")
    assert change > 1e-4
    assert rows.loc["rms_change", ["learned", "ablated"]].tolist() == [0, pytest.approx(change, rel=1e-3)]
    assert rows.loc["d_fake", ["learned", "ablated"]].tolist() == pytest.approx(d_fake, rel=1e-3)
    assert (rows["parts"] == 16).all()


def test_metrics_of_torchmetrics_start_anew_in_every_part(tmp_path):
    torch.manual_seed(0)
    module = Classifier(norm="batch_instance", widths=(4, 4), depths=(1, 1)).eval()
    for _, layer in norms.mixing_layers(module):
        torch.nn.init.uniform_(layer.rho)
    options = {"image_size": 8, "batch_size": 64}
    found = ablate(run_of(module, tmp_path, "data.BundledDigits", options), batches=2)
    data = BundledDigits(**options)
    data.setup("validate")
    batches = [batch for batch, _ in zip(data.val_dataloader(), range(2), strict=False)]
    with torch.no_grad():
        right = torch.cat([(module(batch["image"]).argmax(1) == batch["label"]).double() for batch in batches])
    rows = found[(found["metric"] == "val/accuracy") & (found["statistics"] == "as trained")]
    assert rows["learned"].tolist() == pytest.approx([right.mean().item()] * len(rows), rel=1e-6)


def test_batches_are_divided_evenly():
    batch = {"image": torch.arange(10), "label": torch.arange(10)}
    parts = _split(batch, 4)
    assert [len(part["image"]) for part in parts] == [3, 3, 3, 1]
    assert torch.cat([part["label"] for part in parts]).equal(batch["label"])
    assert len(_split(batch, 100)) == 10
    whole = [torch.zeros(3), torch.zeros(3)]
    assert _split(whole, 4)[0] is whole


def test_a_run_that_cannot_be_ablated_says_why(tmp_path):
    run = run_of(Squared(), tmp_path)
    run.config["data"]["init_args"] = {"folder": "nowhere"}
    with pytest.raises(SettingError, match="no such folder of images"):
        ablate(run)


def table(changes, metric="val/loss", half=0.01, learned=1.2, parts=8, statistics="recalibrated", run="run"):
    rows = [
        (run, layer, depth, forced, metric, statistics, learned, learned + change, change - half, change + half, parts)
        for depth, (layer, ways) in enumerate(changes.items())
        for forced, change in ways.items()
    ]
    return DataFrame(rows, columns=list(COLUMNS))


def said(changes, **options):
    return needs.contents(table(changes, **options))[0]["finding"]


NEEDED = {"binarized": 0.2, "instance": 0.3, "batch": 0.09}
FREE = {"binarized": 0.2, "instance": 0.3, "batch": 0.005}


def test_a_layer_needs_its_gate_if_every_plain_norm_costs_beyond_noise():
    one = said({"a": FREE, "b": NEEDED})
    assert one == "Only b needs its gate: forcing it costs +0.09 of 1.2 at least."
    none = said({"a": FREE})
    assert none.startswith("No layer needs its gate beyond noise")
    assert none.endswith("+0.005 of 1.2 at most, in a.")
    assert said({"a": NEEDED, "b": NEEDED}).startswith("All layers need their gates")
    several = said({"a": FREE, **dict.fromkeys("bcde", NEEDED)})
    assert several.startswith(
        "4 of 5 layers need their gates: forcing them costs at least, of 1.2, b (+0.09), c (+0.09)"
    )
    assert several.endswith("and 1 less.")
    assert "cannot be told from noise" in said({"a": NEEDED}, parts=1)


def test_other_metrics_have_no_better_or_worse():
    assert said({"a": FREE, "b": {"batch": -0.4}}, metric="val/accuracy") == (
        "2 of 2 layers change val/accuracy beyond noise, b most: -0.4 of 1.2 as batch."
    )
    assert said({"a": {"batch": 0.001}}, metric="d_fake") == "No layer changes d_fake beyond noise."
    between = table({"a": {"batch": 0.0}}, metric="rms_between", learned=0.3)
    changed = table({"a": {"batch": 0.02}, "b": {"batch": 0.1}}, metric="rms_change", learned=0.0)
    (entry,) = needs.contents(pd.concat([changed, between]))
    assert entry["finding"] == (
        "Forcing b changes the images most: by 0.1 as batch, where images of different latent vectors are 0.3 apart."
    )


def test_layers_that_change_images_about_as_much_are_not_told_apart():
    changed = table({"a": {"batch": 0.09}, "b": {"batch": 0.1}}, metric="rms_change", learned=0.0)
    changed["low"], changed["high"] = changed["ablated"] - 0.01, changed["ablated"] + 0.01
    (entry,) = needs.contents(changed)
    assert entry["finding"] == (
        "Forcing a layer changes the images by 0.09 to 0.1; none does so beyond noise more than all others."
    )


def test_the_terminal_has_the_layers_that_matter_most_first():
    (shown,) = needs.tables(table({"a": FREE, "b": NEEDED, "c": {"binarized": 0.0, "batch": 0.0}}))
    assert list(shown.columns[0].cells) == ["b", "a", "c"]
    assert [column.header for column in shown.columns] == ["layer", "binarized", "instance", "batch"]
    assert list(shown.columns[3].cells) == ["+0.09*", "+0.005", "+0"]

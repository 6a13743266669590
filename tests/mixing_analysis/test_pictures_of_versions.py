"""What networks make of the same input as learned, binarized and of one statistic alone, against loops of its own."""

import copy
import json

import numpy as np
import pytest
import torch
from gan_runs import make_gan
from stand_ins import TinyData
from test_binarized import EPS, SingleNorm, run_of, score, set_, training_images, validation_images
from torch import nn

import norms
from data.photos import BundledPhotos
from data.stream import generator
from data.styles import scaled_style
from lightning_modules.any_style import AnyStyle
from lightning_modules.classifier import Classifier
from lightning_modules.style_transfer import StyleTransfer
from mixing_analysis import pictures
from mixing_analysis.evaluations import LATENTS
from mixing_analysis.networks import quiet
from mixing_analysis.sheets import fitted
from mixing_analysis.values import Run
from norms.errors import SettingError

TRUSTED = ("stand_ins", "test_binarized")


def make(run, batches=32):
    return pictures.make(run, batches, TRUSTED)


def normalized(images, rho, mean, var):
    batch = (images - mean[:, None, None]) / np.sqrt(var[:, None, None] + EPS)
    own = images.mean((2, 3), keepdims=True), images.var((2, 3), keepdims=True)
    rho = np.array(rho)[:, None, None]
    return rho * batch + (1 - rho) * (images - own[0]) / np.sqrt(own[1] + EPS)


def test_a_known_network_as_by_hand(tmp_path):
    model = SingleNorm()
    set_(model.norm.rho, [0.2, 0.6, 0.5])
    made = make(run_of(model, tmp_path), batches=5)
    images, population = validation_images(), training_images(5)
    statistics = population.mean((0, 2, 3)), population.var((0, 2, 3), ddof=1)
    gates = {"learned": [0.2, 0.6, 0.5], "binarized": [0, 1, 1], "batch": [1, 1, 1], "instance": [0, 0, 0]}
    assert [version.name for version in made.versions] == list(gates)
    learned = normalized(images[:1], gates["learned"], *statistics)
    for version in made.versions:
        rho = gates[version.name]
        assert version.scores == {"val/score": pytest.approx(score(images, rho, *statistics), rel=1e-5)}
        change = np.sqrt(np.square(normalized(images[:1], rho, *statistics) - learned).mean())
        assert version.changes == (pytest.approx(change, abs=1e-6),)
    assert len({version.scores["val/score"] for version in made.versions}) == 4
    assert made.count == len(images) == 12


def style_run(folder, **options):
    torch.manual_seed(0)
    module = StyleTransfer(widths=(4, 4, 4), num_blocks=1, style_size=64, noise=0.05, **options)
    for name, style in zip(module._picture_names(), module.styles, strict=True):
        setattr(module, name, scaled_style(style, 64))
    for name, parameter in module.transformer.named_parameters():
        if name.endswith("rho"):
            nn.init.uniform_(parameter)
        elif ".norm" in name and "weight" in name.rpartition(".")[2]:
            nn.init.normal_(parameter, 1, 0.3)
    return module, run_of(module, folder, "data.BundledPhotos", {"image_size": 32, "batch_size": 3})


def forced(module, gate):
    """A copy whose gates are set one by one."""
    copied = copy.deepcopy(module)
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            if name.endswith("rho"):
                for channel, value in enumerate(parameter.tolist()):
                    parameter[channel] = value if gate is None else round(value) if gate == "round" else gate
    return copied


GATES = {"learned": None, "binarized": "round", "batch": 1, "instance": 0}


@pytest.mark.parametrize("styles", [None, ["glass", "mosaic", "night", "quilt", "waves"]])
def test_the_styles_of_a_network(styles, tmp_path):
    module, run = style_run(tmp_path, styles=styles)
    made = make(run, batches=2)
    data = BundledPhotos(image_size=32, batch_size=3)
    stream = iter(data.train_dataloader())
    training = [next(stream)["image"] for _ in range(2)]
    held_out = torch.stack([image["image"] for image in data.val_images()])
    several, shown = styles is not None, [0, 2, 4] if styles else [0]
    assert made.rows == (("glass", "night", "waves") if several else ("",))
    assert (made.count, made.given, made.generated) == (3, True, False)
    painted = {}
    for column, (name, gate) in enumerate(GATES.items()):
        version = forced(module, gate).eval()
        turns = iter([torch.tensor([0, 1, 2]), torch.tensor([3, 4, 0])])
        paint = (lambda net, photos, turns=turns: net(photos, next(turns))) if several else None
        norms.recalibrate(version, training, forward=paint)
        with quiet():
            version.setup("validate")
        version._measure_style()
        own = torch.arange(3) if several else 0
        with torch.no_grad():
            terms = version.loss(version(held_out, own), held_out, [0, 1, 2] if several else None)
            painted[name] = [version(held_out[:1], style)[0] for style in shown]
        found = made.versions[column]
        assert found.name == name
        for term, value in terms.items():
            assert found.scores[f"val/{term}"] == pytest.approx(value.item(), rel=1e-4)
        pairs = zip(painted[name], painted["learned"], strict=True)
        assert found.changes == pytest.approx([(a - b).square().mean().sqrt().item() for a, b in pairs], abs=1e-5)
        tiles = made.sheet.column(1 + column)
        expected = [fitted(image) for image in painted[name]]
        height = made.sheet.size[0]
        for row, tile in enumerate(expected):
            torch.testing.assert_close(tiles[:, row * (height + 4) :][:, :height], tile, atol=1e-4, rtol=0)
    assert len({version.scores["val/loss"] for version in made.versions}) == 4
    given = made.sheet.column(0)[:, : made.sheet.size[0]]
    torch.testing.assert_close(given[:, :64], fitted(held_out[0])[:, :64])


def test_any_style_paints_in_a_held_out_one(tmp_path):
    torch.manual_seed(0)
    module = AnyStyle(norm="batch_instance")
    module.network.read_encoder(None)
    made = make(run_of(module, tmp_path, "data.StyledPhotos", {"image_size": 32, "batch_size": 2}), batches=1)
    assert [version.name for version in made.versions] == list(GATES)
    assert made.given
    assert made.sheet.columns == 5
    assert made.count == 2


@pytest.mark.parametrize("num_classes", [0, 3])
def test_the_images_of_a_generator(num_classes, tmp_path):
    gan = make_gan(num_classes=num_classes, norm="switchable", architecture_options={"width": 0.25})
    for name, parameter in gan.generator.named_parameters():
        if name.endswith(("mean_weight", "var_weight")):
            nn.init.normal_(parameter)
    made = make(run_of(gan, tmp_path))
    assert [version.name for version in made.versions] == ["learned", "binarized", "batch", "instance", "layer"]
    latents = torch.randn(LATENTS, 8, generator=generator(0, 0))
    labels = torch.arange(LATENTS) % num_classes if num_classes else None
    drawn, places = {}, {"instance": 0, "layer": 1, "batch": 2}
    for version in made.versions:
        other = copy.deepcopy(gan)
        with torch.no_grad():
            for name, parameter in other.generator.named_parameters():
                if name.endswith(("mean_weight", "var_weight")) and version.name != "learned":
                    place = places.get(version.name, int(parameter.argmax()))
                    parameter[:] = -1e9
                    parameter[place] = 1e9
        images = drawn[version.name] = other.sample(latents, labels, averaged=False)
        with torch.no_grad():
            inputs = (2 * images - 1,) if labels is None else (2 * images - 1, labels)
            score = gan.discriminator(*inputs).mean().item()
        assert version.scores == {"d_fake": pytest.approx(score, rel=1e-3)}
        change = (images - drawn["learned"]).double().square().mean().sqrt().item()
        assert version.changes == (pytest.approx(change, abs=1e-5),)
    assert (made.count, made.given, made.generated) == (LATENTS, False, True)
    assert made.versions[1].changes[0] > 1e-3
    # Twenty images, five in a row, each with a line around it.
    first = made.sheet.column(0)
    scale = 384 // (5 * 18)
    top = first[:, 2 * scale : 18 * scale : scale, 2 * scale : 18 * scale : scale]
    torch.testing.assert_close(top, drawn["learned"][0].expand(3, -1, -1).clamp(0, 1), atol=1e-4, rtol=0)


def test_a_classifier_has_scores_alone(tmp_path):
    torch.manual_seed(0)
    model = Classifier(norm="batch_instance", widths=(4, 4), depths=(1, 1))
    made = make(run_of(model, tmp_path, "data.BundledDigits", {"image_size": 8, "batch_size": 64}), batches=2)
    assert made.sheet is None
    assert not made.given
    assert all(version.changes == () for version in made.versions)
    assert {name for version in made.versions for name in version.scores} == {"val/loss", "val/accuracy"}
    assert made.count == 128
    assert made.channels


def test_what_a_page_gets_and_which_files_are_written(tmp_path):
    _, run = style_run(tmp_path, styles=["night", "waves"])
    made = make(run, batches=1)
    shown = json.loads(json.dumps(pictures.contents(made), allow_nan=False))
    assert shown["run"] == "run"
    assert [each["name"] for each in shown["versions"]] == list(GATES)
    assert shown["sheet"]["data"].startswith("data:image/")
    assert len(shown["channels"]) == 4
    assert 1 + len(shown["channels"]) <= 10
    written = pictures.write([made, made], tmp_path / "pictures")
    assert len({*written}) == len(written) == 2 * (5 + 4)
    assert sorted(tmp_path.glob("pictures/*")) == sorted(written)
    names = [path.name for path in written[:5]]
    assert names == [f"run_{name}.png" for name in ("given", *GATES)]
    assert all(path.name.startswith("run_1_") for path in written[9:])


def test_the_same_pictures_every_time(tmp_path):
    _, run = style_run(tmp_path)
    assert pictures.contents(make(run, 1)) == pictures.contents(make(run, 1))


class WithoutImages(TinyData):
    def val_dataloader(self):
        return [torch.zeros(2, 3, 8, 8)]


def test_runs_without_pictures_say_why(tmp_path):
    run = run_of(SingleNorm(), tmp_path)
    with pytest.raises(SettingError, match="there is no checkpoint of it here"):
        make(Run("r", "r", run.frame, config=run.config))
    other = {**run.config, "data": "test_pictures_of_versions.WithoutImages"}
    with pytest.raises(SettingError, match="have no 'image'"):
        pictures.make(
            Run("r", "r", run.frame, config=other, checkpoint=run.checkpoint),
            1,
            (*TRUSTED, "test_pictures_of_versions"),
        )

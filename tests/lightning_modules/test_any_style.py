"""Any style: training on pairs, what the checkpoint holds, and styles from pictures."""

import shutil
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from PIL import Image
from pytorch_lightning.cli import instantiate_class
from torchvision.transforms.v2.functional import pil_to_tensor

import norms
from data import BundledPhotos, StyledPhotos
from data.module import ImageDataModule
from data.styles import open_style
from lightning_modules.any_style import AnyStyle
from lightning_modules.losses.perceptual import Content
from lightning_modules.networks.feature_net import BUNDLED
from lightning_modules.painter import Painter
from norms.errors import SettingError
from training.network_files import write_network
from training.run import Run

CONFIGS = Path(__file__).parents[2] / "configs"


class Pairs(ImageDataModule):
    """Random pairs in memory."""

    has_styles = True

    def __init__(self):
        super().__init__(batch_size=2, image_size=16)
        generator = torch.Generator().manual_seed(0)
        self.pairs = [
            {
                "image": torch.rand(3, 16, 16, generator=generator),
                "style": torch.rand(3, 16, 16, generator=generator) ** 3,
            }
            for _ in range(12)
        ]

    def load(self):
        return self.pairs[:8], self.pairs[8:]


def make(**options):
    torch.manual_seed(0)
    return AnyStyle(**{"layer": "relu2_1", "style_layers": ["relu1_1", "relu2_1"], "lr": 1e-2, **options})


def ready(**options):
    model = make(**options).eval()
    model.setup("validate")
    return model


def trainer(steps=2, **options):
    return pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        val_check_interval=steps,
        use_distributed_sampler=False,
        **options,
    )


@pytest.fixture(scope="module")
def fitted():
    module, fit = make(), trainer()
    fit.fit(module, datamodule=Pairs())
    return module, fit


def test_training_moves_the_decoder_alone_and_logs_every_term(fitted):
    module, fit = fitted
    expected = {f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", "content", "style", "tv")}
    assert expected <= set(fit.callback_metrics)
    assert all(value.isfinite() for value in fit.callback_metrics.values())
    before = ready().state_dict()
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if ".decoder." in name}


@pytest.mark.parametrize("scaling", ["relative", "published"])
def test_validation_is_the_formula(scaling):
    module, data, validate = make(loss_scaling=scaling, style_weight=3.0), Pairs(), trainer()
    validate.validate(module, datamodule=data, verbose=False)
    network = module.eval().network
    batches = list(data.val_dataloader())
    content = style = 0.0
    for batch in batches:
        wanted = network.encoder(batch["style"], network.layers)
        moments = {name: (x.mean((2, 3)), (x.var((2, 3), correction=0) + 1e-5).sqrt()) for name, x in wanted.items()}
        photo = network.encoder(batch["image"], {"relu2_1"})["relu2_1"]
        mean, deviation = (each[..., None, None] for each in moments["relu2_1"])
        own = photo.mean((2, 3), keepdim=True), (photo.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        target = (photo - own[0]) / own[1] * deviation + mean
        found = network.encoder(network.decoder(target).clamp(0, 1), network.layers)
        reduce = torch.mean if scaling == "relative" else torch.sum

        def error(value, other):
            return (value - other).square().mean() / (other.square().mean() if scaling == "relative" else 1)

        for number in (0, 1):
            of = {n: (x.mean((2, 3)), (x.var((2, 3), correction=0) + 1e-5).sqrt())[number] for n, x in found.items()}
            style += reduce(torch.stack([error(of[name], moments[name][number]) for name in of])) / 2
        content += error(found["relu2_1"], target) / 2
    metrics = validate.callback_metrics
    torch.testing.assert_close(metrics["val/content"], content.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(metrics["val/style"], style.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(metrics["val/loss"], (content + 3 * style).detach(), rtol=1e-4, atol=1e-6)


def test_training_brings_the_loss_down():
    module, fit, before = make(), trainer(40), trainer()
    before.validate(module, datamodule=Pairs(), verbose=False)
    fit.fit(module, datamodule=Pairs())
    assert fit.callback_metrics["val/loss"] < 0.7 * before.callback_metrics["val/loss"]


@pytest.mark.parametrize("norm", ["none", "batch_instance"])
def test_resumed_training_ends_as_one_that_was_never_stopped(norm, tmp_path):
    options = {"schedule": "inverse", "channels_last": True, "norm": norm}
    whole = make(**options)
    trainer(5).fit(whole, datamodule=Pairs())
    stopped, second = trainer(2), make(**options)
    stopped.fit(make(**options), datamodule=Pairs())
    stopped.save_checkpoint(tmp_path / "last.ckpt")
    trainer(5).fit(second, datamodule=Pairs(), ckpt_path=tmp_path / "last.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    kinds = {value.kind for value in norms.mixing_values(second)}
    assert kinds == ({"rho"} if norm == "batch_instance" else set())


def test_the_checkpoint_paints_without_the_file_of_the_loss_network(tmp_path):
    shutil.copy(BUNDLED, tmp_path / "weights.safetensors")
    module, fit = make(weights=str(tmp_path / "weights.safetensors")), trainer()
    fit.fit(module, datamodule=Pairs())
    fit.save_checkpoint(tmp_path / "last.ckpt")
    (tmp_path / "weights.safetensors").unlink()
    loaded = Run.find(tmp_path / "last.ckpt").load(Painter)
    assert isinstance(loaded, AnyStyle)
    photo = torch.rand(1, 3, 15, 22)
    assert torch.equal(loaded(photo), module.eval()(photo))
    write_network(module, tmp_path / "net.safetensors", {})
    assert b"weights.safetensors" not in (tmp_path / "net.safetensors").read_bytes()
    exported = Run.find(tmp_path / "net.safetensors").load(Painter)
    torch.testing.assert_close(exported(photo), loaded(photo), atol=2e-3, rtol=0)


def test_styles_are_bundled_names_files_and_mixtures(tmp_path):
    model = ready(style_size=64)
    open_style("waves").save(tmp_path / "mine.png")
    mine, night = (model.find_style([name]) for name in (str(tmp_path / "mine.png"), "night"))
    torch.testing.assert_close(mine, model.find_style(["waves"]))
    mixed = model.find_style([f"{tmp_path / 'mine.png'}=0.25", "night=0.75"])
    torch.testing.assert_close(mixed, 0.25 * mine + 0.75 * night)
    photo = torch.rand(2, 1, 9, 14)
    torch.testing.assert_close(model(photo, model.style_names.index("night")), model(photo, night))
    each = model(photo, torch.stack([mine, night]))
    torch.testing.assert_close(each[0], model(photo[:1], mine)[0])
    assert each.shape == (2, 3, 9, 14)
    torch.testing.assert_close(model.find_style([]), model.find_style(model.style_names[:1]))
    assert not torch.allclose(model(photo, night, alpha=0.5), model(photo, night))


def test_a_picture_is_measured_at_style_size():
    picture = open_style("night").resize((64, 64), Image.Resampling.BICUBIC)
    model = ready(style_size=64)
    expected = model.network.measure(pil_to_tensor(picture)[None] / 255)[0]
    torch.testing.assert_close(model.find_style(["night"]), expected)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ("nonesuch.jpg", "no style picture 'nonesuch.jpg': there is no such file, and the bundled ones are"),
        (Image.new("RGB", (80, 80), (3, 5, 7)), "has one single color, and no texture to paint with"),
        (Image.effect_noise((20, 20), 50), "20x20 pixels. is too small: its shorter side must have at least 32 pixels"),
        (Image.effect_noise((900, 40), 50), "900x40 pixels. is too narrow for style_size 512"),
        (b"no picture", "style picture .* not an image"),
    ],
)
def test_pictures_that_are_no_styles(picture, message, tmp_path):
    path = tmp_path / "mine.png"
    if isinstance(picture, bytes):
        path.write_bytes(picture)
    elif not isinstance(picture, str):
        picture.save(path)
    with pytest.raises(SettingError, match=message) as error:
        ready().find_style([picture if isinstance(picture, str) else str(path)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["night", "waves"], "--style night: several styles have shares"),
        (["night=0.5", "waves=0.2"], r"the shares of the styles must sum to 1, got 0\.7"),
    ],
)
def test_shares_that_are_none(chosen, message):
    with pytest.raises(SettingError, match=message):
        ready().find_style(chosen)


def test_the_sample_grid_shows_photos_in_held_out_styles(fitted):
    module, data = fitted[0], Pairs()
    grid = module.sample_grid()
    # Two photos of 16 pixels, two styles on the left of their rows, and lines of 4.
    assert grid.shape == (3, 4 + 3 * (16 + 4), 4 + 16 + 4 + 2 * (16 + 4))
    assert torch.equal(grid[:, 4:20, 24:40], data.pairs[8]["image"])
    assert (grid[:, 24:40, 4:20] - data.pairs[8]["style"]).abs().max() < 0.01
    with torch.no_grad():
        painted = module.predict_step({key: value[None] for key, value in data.pairs[8].items()}, 0)
    torch.testing.assert_close(grid[:, 24:40, 24:40], painted[0], atol=0.01, rtol=0)


def test_a_further_term_compares_with_the_photo():
    terms = [{"class_path": f"{__name__}.Likeness", "init_args": {"weight": 2, "layers": ["relu1_2"]}}]
    validate = trainer()
    validate.validate(make(terms=terms), datamodule=Pairs(), verbose=False)
    logged = validate.callback_metrics
    expected = logged["val/content"] + logged["val/style"] + 2 * logged["val/likeness"]
    torch.testing.assert_close(logged["val/loss"], expected)


class Likeness(Content):
    """A term that a user adds."""

    name = "likeness"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "linear"}, "unknown schedule 'linear'"),
        ({"loss_scaling": "absolute"}, "unknown loss_scaling 'absolute'"),
        ({"style_size": 20}, "style_size must be at least 32"),
        ({"terms": 2 * [{"class_path": "lightning_modules.losses.lattice.Lattice"}]}, "need different names"),
        ({"style_weight": -1.0}, "style_weight must be at least 0"),
        ({"loss_network": "squeezenet1_1"}, "unknown loss_network of any style 'squeezenet1_1'"),
        ({"weights": "nonesuch.pth"}, "there is no file nonesuch.pth"),
    ],
)
def test_what_is_wrong_shows_at_the_start(options, message):
    with pytest.raises(SettingError, match=message):
        make(**options).prepare_data()


def test_data_without_styles_is_refused():
    with pytest.raises(SettingError, match=r"which BundledPhotos does not have: take data\.StyledPhotos"):
        make().check_data(BundledPhotos())
    make().check_data(StyledPhotos())


@pytest.mark.parametrize("name", ["any_style", "any_style_vgg19"])
def test_configs_describe_a_model_and_its_data(name):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert config["name"] == name
    assert config["model"]["class_path"] == "lightning_modules.AnyStyle"
    instantiate_class((), config["model"]).check_data(instantiate_class((), config["data"]))


def test_identity_is_the_error_of_pictures_in_their_own_style():
    data, validate, module = Pairs(), trainer(), make(identity_weight=3.0)
    validate.validate(module, datamodule=data, verbose=False)
    errors = []
    for batch in data.val_dataloader():
        picture = batch["style"]
        own = module.network.decoder.eval()(module.network.encode(picture)).clamp(0, 1)
        errors.append((own - picture).square().mean() / picture.square().mean())
    logged = validate.callback_metrics
    torch.testing.assert_close(logged["val/identity"], sum(errors).detach() / 2)
    total = logged["val/content"] + logged["val/style"] + 3 * logged["val/identity"]
    torch.testing.assert_close(logged["val/loss"], total)

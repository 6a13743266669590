import shutil
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from PIL import Image
from pytorch_lightning.cli import instantiate_class
from pytorch_lightning.loggers import CSVLogger
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

import norms
from data.module import ImageDataModule
from data.styles import open_style
from lightning_modules.base import class_path
from lightning_modules.losses.perceptual import PerceptualLoss, Term, usual_terms
from lightning_modules.networks.feature_net import BUNDLED
from lightning_modules.networks.loss_network import LossNetwork
from lightning_modules.style_transfer import StyleTransfer
from norms.errors import SettingError
from training.run import Run

CONFIGS = Path(__file__).parents[2] / "configs"


class Noise(ImageDataModule):
    """Random images in memory."""

    def __init__(self, channels=3, image_size=16):
        super().__init__(batch_size=2, image_size=image_size)
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(20, channels, image_size, image_size, generator=generator)
        self.train_transform = self.val_transform = lambda image: {"image": image}

    def load(self):
        return list(self.images[:12]), list(self.images[12:])


def make(**options):
    torch.manual_seed(0)
    small = {"style": "night", "style_size": 64, "widths": [4, 8], "num_blocks": 1, "lr": 1e-2}
    return StyleTransfer(**{**small, "content_layers": ["relu1_2"], "style_layers": ["relu1_1", "relu2_1"], **options})


def trainer(steps=2, **options):
    return pl.Trainer(
        **{
            "max_steps": steps,
            "max_epochs": -1,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "check_val_every_n_epoch": None,
            "val_check_interval": steps,
            "use_distributed_sampler": False,
            **options,
        }
    )


@pytest.fixture(scope="module")
def fitted():
    """A module after two steps on random images, and its trainer."""
    module = make()
    fit = trainer()
    fit.fit(module, datamodule=Noise())
    return module, fit


def test_training_moves_the_network_and_logs_every_term(fitted):
    module, fit = fitted
    assert fit.global_step == 2
    expected = {f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", "content", "style", "tv")}
    assert expected <= set(fit.callback_metrics)
    assert all(value.isfinite() for value in fit.callback_metrics.values())
    before = make().transformer.state_dict()
    assert all(not torch.equal(value, before[name]) for name, value in module.transformer.named_parameters())


def test_training_brings_the_loss_down():
    module, fit = make(), trainer(40)
    before = trainer()
    before.validate(module, datamodule=Noise(), verbose=False)
    fit.fit(module, datamodule=Noise())
    assert fit.callback_metrics["val/style"] < before.callback_metrics["val/style"] / 3
    assert fit.callback_metrics["val/loss"] < before.callback_metrics["val/loss"]


@pytest.mark.parametrize("scaling", ["relative", "published"])
def test_validation_scores_held_out_photos_in_evaluation_mode(scaling):
    module, data = make(loss_scaling=scaling, style_weight=2.0), Noise()
    validate = trainer()
    validate.validate(module, datamodule=data, verbose=False)
    network = LossNetwork("bundled", ["relu1_1", "relu1_2", "relu2_1"])
    loss = PerceptualLoss(network, usual_terms(["relu1_2"], ["relu1_1", "relu2_1"], scaling, style_weight=2.0))
    loss.set_style(module.style_image[None] / 255)
    batches = data.images[12:].split(2)
    with torch.no_grad():
        terms = [loss(module.eval()(photos), photos) for photos in batches]
    for name in ("loss", "content", "style", "tv"):
        expected = torch.stack([term[name] for term in terms]).mean()
        torch.testing.assert_close(validate.callback_metrics[f"val/{name}"], expected)


@pytest.mark.filterwarnings("ignore:MeanOnlyBatchNorm subtracts means and keeps no scale")
@pytest.mark.parametrize("norm", norms.names())
def test_trains_with_every_norm(norm):
    module, fit = make(norm=norm), trainer()
    fit.fit(module, datamodule=Noise())
    assert fit.callback_metrics["val/loss"].isfinite()
    assert all(0 <= value.value <= 1 for value in norms.mixing_values(module))


def test_trains_in_mixed_precision():
    fit = trainer(precision="bf16-mixed")
    fit.fit(make(), datamodule=Noise())
    expected = trainer()
    expected.fit(make(), datamodule=Noise())
    torch.testing.assert_close(
        fit.callback_metrics["val/loss"], expected.callback_metrics["val/loss"], rtol=0.05, atol=0
    )


def test_gray_photos_are_stylized_in_color():
    module, fit = make(), trainer()
    fit.fit(module, datamodule=Noise(channels=1))
    assert module(torch.rand(2, 1, 16, 16)).shape == (2, 3, 16, 16)


def test_rho_has_a_learning_rate_of_its_own():
    module = make(rho_lr_multiplier=5.0)
    optimizer = module.configure_optimizers()
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert len(rates) == len(list(module.parameters()))
    for name, parameter in module.named_parameters():
        assert rates[id(parameter)] == pytest.approx(5e-2 if name.endswith("rho") else 1e-2)


def test_checkpoint_holds_the_style_and_nothing_of_the_loss_network(fitted, tmp_path):
    _, fit = fitted
    fit.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert {name.partition(".")[0] for name in state} == {"transformer", "style_image"}
    picture = open_style("night").resize((64, 64), Image.Resampling.BICUBIC)
    assert torch.equal(state["style_image"], pil_to_tensor(picture))


def test_checkpoint_is_used_where_neither_style_nor_loss_network_are(tmp_path):
    style, weights = tmp_path / "mine.png", tmp_path / "weights.safetensors"
    to_pil_image(torch.rand(3, 40, 80)).save(style)
    shutil.copy(BUNDLED, weights)
    module, fit = make(style=str(style), weights=str(weights)), trainer()
    fit.fit(module, datamodule=Noise())
    fit.save_checkpoint(tmp_path / "last.ckpt")
    style.unlink()
    weights.unlink()
    loaded = Run.find(tmp_path / "last.ckpt").load(StyleTransfer)
    photo = torch.rand(1, 3, 15, 22)
    assert torch.equal(loaded(photo), module.eval()(photo))
    assert loaded.style_image.shape == (3, 32, 64)
    assert torch.equal(loaded.style_image, module.style_image)


def test_resumed_training_ends_as_one_that_was_never_stopped(tmp_path):
    style = tmp_path / "mine.png"
    to_pil_image(torch.rand(3, 64, 64)).save(style)
    whole = make(style=str(style))
    trainer(5).fit(whole, datamodule=Noise())
    first = make(style=str(style))
    stopped = trainer(2)
    stopped.fit(first, datamodule=Noise())
    stopped.save_checkpoint(tmp_path / "last.ckpt")
    to_pil_image(torch.rand(3, 64, 48)).save(style)  # the picture that was trained on is the checkpoint's
    second = make(style=str(style))
    trainer(5).fit(second, datamodule=Noise(), ckpt_path=tmp_path / "last.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_resuming_with_other_settings_is_refused(fitted, tmp_path):
    fitted[1].save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(SettingError, match="style was 'night', is now 'waves'"):
        trainer(5).fit(make(style="waves"), datamodule=Noise(), ckpt_path=tmp_path / "last.ckpt")


def test_sample_grid_shows_the_style_and_photos_above_their_results(fitted):
    module, data = fitted[0], Noise()
    modes = [part.training for part in module.modules()]
    state = torch.get_rng_state()
    grid = module.sample_grid()
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in module.modules()] == modes
    # Two photos of 16 pixels, since a batch has two, and the style picture as high as both rows, with lines of 4.
    assert grid.shape == (3, 4 + 16 + 4 + 16 + 4, 4 + 36 + 4 + 16 + 4 + 16 + 4)
    assert 0 <= grid.min() <= grid.max() <= 1
    photo = data.images[13]
    assert torch.equal(grid[:, 4:20, -20:-4], photo)
    torch.testing.assert_close(grid[:, 24:40, -20:-4], module.eval()(photo[None])[0].detach())
    style = grid[:, 4:40, 4:40]
    assert (style.mean((1, 2)) - module.style_image.float().mean((1, 2)) / 255).abs().max() < 0.02
    assert torch.equal(grid, module.sample_grid())


def test_sample_grid_without_validation():
    module, fit = make(), trainer(limit_val_batches=0)
    fit.fit(module, datamodule=Noise())
    assert module.sample_grid().shape[1] == 44


STYLES = ["night", "waves", "glass"]


def test_several_styles_train_in_turn_and_differ():
    module, fit = make(styles=STYLES, lr=3e-2), trainer(30)
    served = []
    module.transformer.register_forward_pre_hook(
        lambda _, inputs: served.extend(inputs[1].tolist()) if module.training else None
    )
    fit.fit(module, datamodule=Noise())
    assert served == [i % 3 for i in range(60)]
    photo = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        painted = [module.eval()(photo, style) for style in range(3)]
        mixed = module(photo, torch.tensor([0.5, 0.5, 0]))
    assert min((a - b).abs().mean() for a in painted for b in [*painted, mixed] if a is not b) > 0.01
    grid = module.sample_grid()
    assert grid.shape == (3, 4 + 4 * (16 + 4), 4 + 16 + 4 + 2 * (16 + 4))
    assert module.style_names == STYLES
    gates = {value.layer for value in norms.mixing_values(module)}
    assert "transformer.first.norm.norm" in gates


class SaveAtTwo(pl.Callback):
    """Saves after the second step."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.path)


def test_several_styles_resume_as_if_never_stopped(tmp_path):
    options = {"styles": STYLES, "noise": 0.1, "jitter": 0.2, "schedule": "cosine", "channels_last": True}
    whole, second = make(**options), make(**options)
    trainer(5, callbacks=[SaveAtTwo(tmp_path / "last.ckpt")]).fit(whole, datamodule=Noise())
    trainer(5).fit(second, datamodule=Noise(), ckpt_path=tmp_path / "last.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_styles_from_a_folder_are_kept_by_name(tmp_path):
    for name in ("b", "a"):
        to_pil_image(torch.rand(3, 64, 64)).save(tmp_path / f"{name}.png")
    module = make(styles=[str(tmp_path), "night"])
    assert module.style_names == ["a", "b", "night"]
    assert module.hparams["styles"] == [str(tmp_path / "a.png"), str(tmp_path / "b.png"), "night"]


@pytest.mark.parametrize(
    ("styles", "message"),
    [
        ([], "styles: expected one or more names, files or folders"),
        (["night", "night"], "night and night would both be called night"),
        (["{folder}"], "styles: no image files in"),
        (["nonesuch"], "no style picture 'nonesuch'"),
    ],
)
def test_impossible_styles(styles, message, tmp_path):
    with pytest.raises(SettingError, match=message):
        make(styles=[style.format(folder=tmp_path) for style in styles]).prepare_data()


def test_style_pictures_take_the_colors_of_another_picture(tmp_path):
    pale = (torch.rand(3, 40, 50) * torch.tensor([60, 40, 20])[:, None, None] + 110).byte()
    to_pil_image(pale).save(tmp_path / "pale.png")
    colors = str(tmp_path / "pale.png")
    wanted = pale.flatten(1).double()
    for module in (make(style_colors=colors), make(styles=["glass", "quilt"], style_colors=colors)):
        module.setup("fit")
        for picture in module.style_images:
            values = picture.flatten(1).double()
            torch.testing.assert_close(values.mean(1), wanted.mean(1), rtol=0, atol=1)
            torch.testing.assert_close(values.cov(), wanted.cov(), rtol=0, atol=10)
    with pytest.raises(SettingError, match=r"no style picture 'nonesuch\.png'"):
        make(style_colors="nonesuch.png").prepare_data()
    to_pil_image(torch.full((3, 40, 40), 200, dtype=torch.uint8)).save(tmp_path / "gray.png")
    with pytest.raises(SettingError, match=r"style_colors .*gray\.png has one single color"):
        make(style_colors=str(tmp_path / "gray.png")).prepare_data()


def test_noise_is_the_same_in_every_evaluation_and_other_in_every_step():
    module, photo = make(noise=0.5), torch.rand(2, 3, 16, 16)
    module.eval()
    assert torch.equal(module(photo), module(photo))
    torch.testing.assert_close(module(photo)[1:], module(photo[1:]))
    assert not torch.allclose(module(photo), make(noise=0.0).eval()(photo))
    fit = trainer(2)
    seen = []
    module.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]) if module.training else None)
    fit.fit(module.train(), datamodule=Noise())
    assert len(seen) == 2
    assert not torch.equal(*seen)


def test_channels_last_gives_the_same_losses():
    fits = []
    for channels_last in (False, True):
        fit = trainer(20)
        fit.fit(make(channels_last=channels_last, lr=1e-3), datamodule=Noise())
        fits.append({name: float(value) for name, value in fit.callback_metrics.items() if "train" in name})
    assert fits[0] == pytest.approx(fits[1], rel=1e-3)


def test_the_rate_follows_the_schedule():
    module, fit = make(schedule="cosine"), trainer(20)
    fit.fit(module, datamodule=Noise())
    assert fit.optimizers[0].param_groups[0]["lr"] < 1e-3 * 1e-2
    with pytest.raises(SettingError, match="unknown schedule 'linear'"):
        make(schedule="linear")
    with pytest.raises(SettingError, match="unknown upsampling 'cubic'"):
        make(upsampling="cubic")


def test_predictions_are_stylized_photos(fitted):
    photo = torch.rand(1, 3, 9, 9)
    module = fitted[0].eval()
    assert torch.equal(module.predict_step({"image": photo}, 0), module(photo))


def test_the_next_command_can_be_pasted():
    command = make().next_command(Path("runs/my style/version_0"))
    assert command == "python stylize.py 'runs/my style/version_0' photo.jpg -o out/"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style": "nonesuch.png"}, "no style picture 'nonesuch.png'"),
        ({"style": __file__}, "not an image"),
        ({"style_size": 20}, "too narrow for style_size 20: its shorter side must keep at least 32 pixels"),
        ({"loss_network": "vgg"}, "unknown loss_network 'vgg', did you mean"),
        ({"style_layers": ["relu9_9"]}, "unknown layer of loss network bundled 'relu9_9'"),
        ({"weights": "nonesuch.pth"}, "there is no file nonesuch.pth"),
        ({"loss_scaling": "absolute"}, "unknown loss_scaling 'absolute'"),
        ({"tv_weight": -1.0}, "tv_weight must be at least 0"),
    ],
)
def test_what_is_wrong_shows_before_anything_is_written(options, message, tmp_path):
    fit = trainer(logger=CSVLogger(tmp_path / "run"), enable_checkpointing=True)
    with pytest.raises(SettingError, match=message) as error:
        fit.fit(make(**options), datamodule=Noise())
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_impossible_norms_are_refused():
    with pytest.raises(ValueError, match="unknown norm 'bin'"):
        make(norm="bin")
    with pytest.raises(ValueError, match="rho"):
        make(norm_options={"initial_rho": 1.5})


@pytest.mark.parametrize("name", ["style_transfer", "style_transfer_vgg16"])
def test_configs_describe_a_model_and_its_data(name):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert config["name"] == name
    model, data = (instantiate_class((), config[part]) for part in ("model", "data"))
    open_style(model.hparams.style)
    assert data.channels == 3
    assert len(list(norms.mixing_layers(model))) > 5
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 3, 8, 8)


class Darkness(Term):
    """A term that a user adds."""

    name = "darkness"

    def forward(self, image, found, wanted):
        return image.mean()


def test_a_further_term_is_a_line_of_yaml():
    terms = yaml.safe_load(f"[{{class_path: {__name__}.Darkness, init_args: {{weight: 3}}}}]")
    module, fit = make(terms=terms), trainer()
    fit.fit(module, datamodule=Noise())
    logged = fit.callback_metrics
    usual = logged["val/content"] + 5 * logged["val/style"] + logged["val/tv"]
    torch.testing.assert_close(logged["val/loss"], usual + 3 * logged["val/darkness"])
    assert module.hparams["terms"] == terms


def test_a_norm_given_as_a_class_is_kept_as_its_path():
    with pytest.raises(SettingError, match="has no class path to keep"):
        make(norm=lambda features: torch.nn.Identity())
    assert class_path(torch.nn.BatchNorm2d) == "torch.nn.modules.batchnorm.BatchNorm2d"


@pytest.mark.parametrize("styles", [None, ["night", "waves"]])
def test_stability_is_a_term_that_costs_nothing_when_it_is_off(styles, monkeypatch):
    calls = []
    forward = StyleTransfer.forward
    monkeypatch.setattr(StyleTransfer, "forward", lambda *images, **style: calls.append(1) or forward(*images, **style))
    found = {}
    for weight in (0.0, 50.0):
        module, fit = make(stability_weight=weight, styles=styles, noise=0.1), trainer(1)
        calls.clear()
        fit.fit(module, datamodule=Noise())
        found[weight] = {name: value.item() for name, value in fit.callback_metrics.items()}, len(calls)
    (off, once), (on, twice) = found[0.0], found[50.0]
    assert twice == 2 * once
    assert set(on) - set(off) == {"train/stability", "val/stability"}
    assert on["train/loss"] - off["train/loss"] == pytest.approx(50 * on["train/stability"], rel=1e-3)
    with pytest.raises(SettingError, match="stability_weight must be at least 0"):
        make(stability_weight=-1.0)


@pytest.mark.parametrize("styles", [None, ["night", "photo"]])
def test_scores_are_logged_where_validation_is_all_there_is(styles):
    module, fit = make(styles=styles), trainer()
    for score in (fit.validate, fit.test):
        score(module, datamodule=Noise(), verbose=False)
        logged = {name: float(value) for name, value in fit.callback_metrics.items()}
        product = (1 + logged["val/content_bundled"]) * (1 + logged["val/style_fd_bundled"])
        assert logged["val/art_bundled"] == pytest.approx(product, rel=1e-5)
    fit.fit(module, datamodule=Noise())
    assert "val/content_bundled" not in fit.callback_metrics


def test_a_style_weakens_towards_the_photo_where_the_network_knows_it():
    shares, blend = make(styles=["night", "photo", "waves"]).weakened(2, 0.25)
    assert blend == 1
    torch.testing.assert_close(shares, torch.tensor([0.0, 0.75, 0.25]))
    mixed, _ = make(styles=["night", "photo", "waves"]).weakened(torch.tensor([0.5, 0.0, 0.5]), 0.5)
    torch.testing.assert_close(mixed, torch.tensor([0.25, 0.5, 0.25]))
    assert make(styles=["night", "waves"]).weakened(1, 0.25) == (1, 0.25)
    assert make(styles=["night", "photo"]).weakened(0, 1.0) == (0, 1.0)

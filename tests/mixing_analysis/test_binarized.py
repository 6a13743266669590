"""Networks whose gates were set by hand, evaluated before and after binarizing."""

import copy
import itertools
import logging

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from stand_ins import Images, TinyData, TinyModel
from torch import nn

import norms
from data.stream import generator
from data.styles import scaled_style
from lightning_modules.base import TrainingModule
from lightning_modules.classifier import Classifier
from lightning_modules.gan import GAN
from lightning_modules.style_transfer import StyleTransfer
from mixing_analysis import binarized
from mixing_analysis.binarized import COLUMNS
from mixing_analysis.evaluations import LATENTS
from mixing_analysis.values import Run, frame
from norms.errors import SettingError

EPS = 1e-5

TRUSTED = ("stand_ins", "test_binarized")


def evaluate(run, batches=32):
    return binarized.evaluate(run, batches, TRUSTED)


class Predicting(TinyModel):
    """The tiny model, which also says what it makes of images."""

    def predict_step(self, batch, batch_idx):
        return self.net(batch["image"])


class SingleNorm(TrainingModule):
    """One layer, of which everything can be computed by hand."""

    def __init__(self, norm: str = "batch_instance"):
        super().__init__()
        self.save_hyperparameters()
        self.norm = norms.build(norm, 3)

    def predict_step(self, batch, batch_idx):
        return self.norm(batch["image"])

    def validation_step(self, batch, batch_idx):
        images = batch["image"]
        score = (self.norm(images) * images).mean() + (self.norm(images) - 0.1).clamp_min(0).mean()
        self.log("val/score", score, batch_size=len(images))


class WithoutBatch(Predicting):
    def __init__(self):
        super().__init__(norm="instance")
        self.net.norm2 = norms.SwitchableNorm2d(4, statistics=("instance", "layer"))
        self.hparams.clear()


def run_of(model, folder, data="stand_ins.TinyData", data_options=None, **config):
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(folder / "last.ckpt")
    settings = {
        "model": {"class_path": f"{type(model).__module__}.{type(model).__qualname__}"},
        "data": {"class_path": data, "init_args": data_options or {}},
    }
    values = frame({0: {"00.n/rho": np.ones(1, np.float32)}})
    return Run("run", "run", values, "run", config={**settings, **config}, checkpoint=folder / "last.ckpt")


def rows_of(result):
    assert tuple(result.columns) == COLUMNS
    return {(row.metric, row.statistics): (row.learned, row.binarized) for row in result.itertuples()}


def set_(parameter, values):
    with torch.no_grad():
        parameter.copy_(torch.tensor(values))


def test_gates_that_are_binarized_already_change_nothing(tmp_path):
    torch.manual_seed(0)
    model = Predicting()
    set_(model.net.norm1.rho, [0.0, 1, 1, 0])
    inf = float("inf")
    set_(model.net.norm2.mean_weight, [-inf, 0, -inf])
    set_(model.net.norm2.var_weight, [-inf, -inf, 0])
    rows = rows_of(evaluate(run_of(model, tmp_path)))
    assert rows.keys() == {("val/loss", "as trained"), ("val/loss", "recalibrated")}
    assert all(learned == binarized for learned, binarized in rows.values())
    assert rows["val/loss", "as trained"] != rows["val/loss", "recalibrated"]


def validation_images():
    return np.stack([Images()[i]["image"].numpy() for i in range(12)]).astype(np.float64)


def training_images(batches):
    """What the data module streams, as far as the benchmark of a recalibration goes."""
    data = TinyData()
    data.trainer = type("Trainer", (), {"global_step": 0})
    drawn = itertools.islice(data.train_dataloader(), batches)
    return torch.cat([batch["image"] for batch in drawn]).numpy().astype(np.float64)


def score(images, rho, mean, var):
    """The score of a :class:`SingleNorm`, from the formula of the paper."""
    batch = (images - mean[:, None, None]) / np.sqrt(var[:, None, None] + EPS)
    own = images.mean((2, 3), keepdims=True), images.var((2, 3), keepdims=True)
    instance = (images - own[0]) / np.sqrt(own[1] + EPS)
    rho = np.array(rho)[:, None, None]
    y = rho * batch + (1 - rho) * instance
    return (y * images).mean() + np.maximum(y - 0.1, 0).mean()


def test_a_known_network_scores_as_by_hand(tmp_path):
    model = SingleNorm()
    set_(model.norm.rho, [0.2, 0.6, 0.5])
    set_(model.norm.running_mean, [0.5, 0.1, -0.2])
    set_(model.norm.running_var, [0.1, 2.0, 0.5])
    rows = rows_of(evaluate(run_of(model, tmp_path), batches=5))
    images, population = validation_images(), training_images(5)
    trained = np.array([0.5, 0.1, -0.2]), np.array([0.1, 2.0, 0.5])
    recalibrated = population.mean((0, 2, 3)), population.var((0, 2, 3), ddof=1)
    for statistics, (mean, var) in (("as trained", trained), ("recalibrated", recalibrated)):
        expected = [score(images, rho, mean, var) for rho in ([0.2, 0.6, 0.5], [0, 1, 1])]
        assert abs(expected[0] - expected[1]) > 1e-4, "binarizing changes nothing, so that nothing is tested"
        assert rows["val/score", statistics] == pytest.approx(expected, rel=1e-5)


def test_no_more_batches_than_allowed(tmp_path):
    model = SingleNorm()
    set_(model.norm.rho, [0.2, 0.6, 0.5])
    rows = rows_of(evaluate(run_of(model, tmp_path), batches=1))
    expected = [score(validation_images()[:6], rho, np.zeros(3), np.ones(3)) for rho in ([0.2, 0.6, 0.5], [0, 1, 1])]
    assert rows["val/score", "as trained"] == pytest.approx(expected, rel=1e-5)


def test_without_running_statistics_there_is_nothing_to_recalibrate(tmp_path):
    rows = rows_of(evaluate(run_of(WithoutBatch(), tmp_path)))
    assert rows.keys() == {("val/loss", "as trained")}


def gan_of(rho, seed=0):
    torch.manual_seed(seed)
    gan = GAN(architecture="resnet16", channels=1, norm="batch_instance", latent_dim=4)
    for name, parameter in gan.named_parameters():
        if name.endswith("rho"):
            set_(parameter, np.resize(rho, len(parameter)).astype(np.float32))
    return gan


def test_a_gan_whose_gates_are_binarized_draws_the_same_images(tmp_path):
    rows = rows_of(evaluate(run_of(gan_of([0, 1]), tmp_path)))
    assert rows["rms_change", "as trained"] == rows["rms_change", "recalibrated"] == (0, 0)
    for metric in ("rms_between", "d_fake"):
        learned, binarized = rows[metric, "recalibrated"]
        assert learned == binarized != 0


def test_the_images_of_a_gan_change_as_by_hand(tmp_path):
    gan = gan_of([0.3, 0.6, 0.7])
    rows = rows_of(evaluate(run_of(gan, tmp_path)))
    learned, rounded = gan.generator.eval(), gan_of([0, 1, 1]).generator.eval()
    latents = torch.randn(LATENTS, 4, generator=generator(0, 0))
    with torch.no_grad():
        before, after = ((network(latents) + 1) / 2 for network in (learned, rounded))
        change = (after - before).square().mean().sqrt().item()
        others = [torch.cat([images[-1:], images[:-1]]) for images in (before, after)]
        between = [(a - b).square().mean().sqrt().item() for a, b in zip((before, after), others, strict=True)]
        scores = [gan.discriminator.eval()(2 * images - 1).mean().item() for images in (before, after)]
    assert change > 1e-4, "binarizing changes nothing, so that nothing is tested"
    assert rows["rms_change", "as trained"] == (0, pytest.approx(change, rel=1e-4))
    assert rows["rms_between", "as trained"] == pytest.approx(between, rel=1e-4)
    assert rows["d_fake", "as trained"] == pytest.approx(scores, rel=1e-4)


@pytest.mark.parametrize(
    ("model", "data", "options", "metrics"),
    [
        (
            lambda: Classifier(norm="batch_instance", widths=(4, 4), depths=(1, 1)),
            "data.BundledDigits",
            {"image_size": 8, "batch_size": 64},
            {"val/loss", "val/accuracy"},
        ),
        (
            lambda: StyleTransfer(widths=(4, 4, 4), num_blocks=1, style_size=64),
            "data.BundledPhotos",
            {"image_size": 32, "batch_size": 2},
            {f"val/{name}" for name in ("loss", "content", "style", "tv", "content_bundled", "style_fd_bundled")}
            | {"val/art_bundled"},
        ),
    ],
    ids=["classifier", "style transfer"],
)
def test_the_projects_own_modules(model, data, options, metrics, tmp_path, capfd):
    torch.manual_seed(0)
    module = model()
    if isinstance(module, StyleTransfer):
        module.style_image = scaled_style(module.styles[0], module.hparams["style_size"])
    for name, parameter in module.named_parameters():
        if name.endswith("rho"):
            nn.init.uniform_(parameter)
    rows = rows_of(evaluate(run_of(module, tmp_path, data, options), batches=2))
    assert rows.keys() == {(metric, statistics) for metric in metrics for statistics in ("as trained", "recalibrated")}
    assert all(np.isfinite(numbers).all() for numbers in rows.values())
    assert rows["val/loss", "as trained"][0] != rows["val/loss", "as trained"][1]
    assert capfd.readouterr() == ("", "")


def test_it_is_evaluated_without_a_word_and_logging_goes_on(tmp_path, capfd, caplog):
    evaluate(run_of(SingleNorm(), tmp_path))
    assert capfd.readouterr() == ("", "")
    with caplog.at_level(logging.INFO):
        logging.getLogger("pytorch_lightning").info("after")
    assert "after" in caplog.text


def error_of(run, trusted=TRUSTED):
    with pytest.raises(SettingError) as caught:
        binarized.evaluate(run, 32, trusted)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_runs_that_cannot_be_evaluated(tmp_path):
    run = run_of(SingleNorm(), tmp_path)

    def changed(part=None, path=None, **options):
        config = copy.deepcopy(run.config)
        if part:
            config[part]["class_path"] = path
        if options:
            config["data"]["init_args"] = options
        return Run("run", "run", run.frame, config=config, checkpoint=run.checkpoint)

    assert error_of(Run("r", "r", run.frame, config=run.config)) == "there is no checkpoint of it here"
    unknown = Run("r", "r", run.frame, checkpoint=run.checkpoint)
    assert error_of(unknown) == "there is no config.yaml beside its checkpoint, which says how to evaluate it"
    gone = "its model 'stand_ins.NoSuch': stand_ins has no NoSuch"
    assert error_of(changed("model", "stand_ins.NoSuch")).startswith(gone)
    assert error_of(changed("model", "nothing")) == "its config.yaml names a model that is not there: 'nothing'"
    incomplete = Run("r", "r", run.frame, config={"seed": 1}, checkpoint=run.checkpoint)
    assert error_of(incomplete) == "its config.yaml names a model that is not there: 'None'"
    message = "its config.yaml names a model that is no TrainingModule: 'norms.BatchNorm2d'"
    assert error_of(changed("model", "norms.BatchNorm2d")) == message
    assert "is a checkpoint of SingleNorm, not of TinyModel" in error_of(changed("model", "stand_ins.TinyModel"))
    message = "its config.yaml names a data that is no LightningDataModule: 'stand_ins.TinyModel'"
    assert error_of(changed("data", "stand_ins.TinyModel")) == message
    assert error_of(changed(folder="nowhere")) == "no such folder of images: nowhere"
    assert error_of(changed(colors=3)).startswith("its data module cannot be built: ")


class WithoutForward(TinyModel):
    """The tiny model has none, and a running mean that would have to be found anew."""


class WithoutValidation(SingleNorm):
    validation_step = TrainingModule.validation_step


@pytest.mark.parametrize(
    ("module", "message"),
    [(WithoutForward, 'missing the required "forward" function'), (WithoutValidation, "`validation_step")],
)
def test_modules_that_cannot_be_evaluated_are_told(module, message, tmp_path):
    assert message in error_of(run_of(module(), tmp_path))


def test_data_named_by_its_class_alone(tmp_path):
    run = run_of(SingleNorm(), tmp_path)
    config = {**run.config, "data": "stand_ins.TinyData"}
    assert len(evaluate(Run("run", "run", run.frame, config=config, checkpoint=run.checkpoint), 1))


def test_weights_that_do_not_fit_are_told_in_a_line(tmp_path):
    run = run_of(SingleNorm(), tmp_path)
    checkpoint = torch.load(run.checkpoint, weights_only=True)
    checkpoint["state_dict"] = {f"old.{i}": torch.zeros(1) for i in range(100)}
    torch.save(checkpoint, run.checkpoint)
    message = error_of(run)
    assert f"{run.checkpoint} does not fit SingleNorm as it is now: Error(s) in loading state_dict" in message
    assert len(message) < len(str(run.checkpoint)) + 250


def test_a_network_of_no_numbers_is_told(tmp_path):
    model = Predicting()
    nn.init.constant_(model.net.first.weight, float("nan"))
    assert "not finite" in error_of(run_of(model, tmp_path))


@pytest.fixture
def traps(tmp_path, monkeypatch):
    """Modules that leave a trace when they are imported."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("trap_model", "trap_data", "trap_norm"):
        (tmp_path / f"{name}.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / name)!r}).touch()\n")
    return lambda: sorted(path.name for path in tmp_path.glob("trap_*") if not path.suffix)


def test_no_module_is_imported_because_a_run_names_it(tmp_path, traps):
    run = run_of(SingleNorm(), tmp_path)
    for part in ("model", "data"):
        config = copy.deepcopy(run.config)
        config[part]["class_path"] = f"trap_{part}.Thing"
        message = error_of(Run("run", "run", run.frame, config=config, checkpoint=run.checkpoint))
        assert f"trap_{part} is not trusted (to trust it: --trust trap_{part})" in message
    checkpoint = torch.load(run.checkpoint, weights_only=True)
    checkpoint["hyper_parameters"]["norm"] = "trap_norm.Thing"
    torch.save(checkpoint, run.checkpoint)
    assert "trap_norm is not trusted (to trust it: --trust trap_norm)" in error_of(run)
    assert traps() == []


@pytest.mark.parametrize("path", ["data.stream.torch.load", "lightning_modules.base.torch.hub.load", "os.system"])
def test_nor_is_one_reached_through_a_module_of_ours(path, tmp_path):
    run = run_of(SingleNorm(), tmp_path)
    checkpoint = torch.load(run.checkpoint, weights_only=True)
    checkpoint["hyper_parameters"]["norm"] = path
    torch.save(checkpoint, run.checkpoint)
    assert "is not trusted" in error_of(run)


def test_what_the_advice_says_helps(tmp_path):
    run = run_of(SingleNorm(), tmp_path)
    assert error_of(run, ()).endswith("(to trust it: --trust test_binarized)")
    assert error_of(run, ("test_binarized",)).endswith("(to trust it: --trust stand_ins)")
    assert len(binarized.evaluate(run, 1, ("test_binarized", "stand_ins")))

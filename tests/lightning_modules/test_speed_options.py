"""Options for faster trainings, ``channels_last``, ``compile`` and half precision, in every module that has them."""

import functools
import shutil

import pytest
import pytorch_lightning as pl
import torch
from stand_ins import Images
from torch.utils.data import DataLoader

from lightning_modules import GAN, Classifier, StyleTransfer
from norms.errors import SettingError


class Labelled(Images):
    """Sixteen pixels square, with labels; every batch of two is the same, which need not be found again."""

    def __getitem__(self, index):
        image = torch.nn.functional.interpolate(super().__getitem__(index % 2)["image"][None], size=16)[0]
        return {"image": image, "label": torch.tensor(index % 2)}


def style(**options):
    layers = {"content_layers": ["relu1_2"], "style_layers": ["relu1_1", "relu2_1@2"]}
    small = {"style_size": 64, "widths": [4, 8], "num_blocks": 1, "norm": "batch_instance", "jitter": 0.2}
    return StyleTransfer(**small, **layers, **options)


def gan(**options):
    return GAN(architecture="resnet16", latent_dim=8, norm="switchable", n_dis=1, **options)


def classifier(**options):
    return Classifier(norm="batch_instance", widths=[4, 8], depths=[1, 1], **options)


MODULES = pytest.mark.parametrize("build", [style, gan, classifier])


def train(module, path=None, steps=3, **options):
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1,
        val_check_interval=2,
        **options,
    )
    trainer.fit(module, DataLoader(Labelled(), batch_size=2), DataLoader(Labelled(), batch_size=4), ckpt_path=path)
    return trainer


def losses(build, options, precision="32-true"):
    torch.manual_seed(0)
    trainer = train(build(**options), precision=precision)
    return {name: float(value) for name, value in trainer.callback_metrics.items() if "accuracy" not in name}


@pytest.fixture
def compiled(monkeypatch):
    """Let compilation trace graphs, but run them by torch's own kernels, and note what is compiled."""
    torch.compiler.reset()
    noted = []
    compile_as_usual = torch.compile

    def compile_quickly(function, *args, **options):
        noted.append(function.__self__)
        return compile_as_usual(function, *args, **options, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_quickly)
    yield noted
    torch.compiler.reset()


@MODULES
def test_channels_last_changes_the_layout_and_not_the_losses(build):
    options = {"channels_last": True}
    module = build(**options)
    train(module, steps=1)
    weights = [
        w for network in module.networks for w in network.state_dict().values() if w.ndim == 4 and w.shape[1] > 1
    ]
    assert weights
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    assert losses(build, options) == pytest.approx(losses(build, {}), rel=1e-3, abs=1e-4)


@MODULES
def test_bfloat16_stays_near_the_losses_of_float32(build):
    found, expected = losses(build, {"channels_last": True}, "bf16-mixed"), losses(build, {})
    assert found == pytest.approx(expected, rel=0.1, abs=0.05)
    assert found != expected


@pytest.mark.slow
@MODULES
def test_compilation_changes_neither_losses_nor_names(build, compiled):
    plain = losses(build, {})
    assert not compiled
    assert losses(build, {"compile": True}) == pytest.approx(plain, rel=1e-3, abs=1e-4)
    assert len(compiled) >= {style: 2, gan: 3, classifier: 1}[build]
    module = build(compile=True)
    names = list(module.state_dict())
    module.configure_model()
    assert list(module.state_dict()) == names


class StopAtOnce(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = True


@pytest.mark.slow
@MODULES
def test_a_compiled_training_resumes_as_if_it_had_never_stopped(build, compiled, tmp_path):
    def trained(path=None, **options):
        torch.manual_seed(0)
        module = build(compile=True)
        train(module, path, steps=2, **options).save_checkpoint(tmp_path / "saved.ckpt")
        return module.state_dict()

    straight = trained()
    halfway = trained(callbacks=[StopAtOnce()])
    resumed = trained(tmp_path / "saved.ckpt")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert not all(torch.equal(straight[name], halfway[name]) for name in straight)


@pytest.mark.slow
def test_the_real_compiler_trains_alike():
    torch.compiler.reset()
    plain = losses(style, {})
    assert losses(style, {"compile": True, "channels_last": True}) == pytest.approx(plain, rel=1e-3, abs=1e-4)
    torch.compiler.reset()


@MODULES
def test_without_a_compiler_one_line_says_so(build, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", functools.partial(lambda name: None))
    with pytest.raises(SettingError, match=r"^model\.compile needs a C\+\+ compiler, and there is no \S+: install one"):
        train(build(compile=True))

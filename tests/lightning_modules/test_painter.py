"""What paints photos is found by its checkpoint, and finds the styles that a command line names."""

import pytest
import pytorch_lightning as pl

from lightning_modules import GAN, StyleTransfer
from lightning_modules.painter import Painter
from norms.errors import SettingError
from training.run import Run


def save(model, path):
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=path.parent)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return Run.find(path)


def make(*styles):
    return StyleTransfer(styles=list(styles) or None, widths=[4], num_blocks=0)


def test_styles_are_found_by_name_or_mixed():
    model = make("night", "waves", "glass")
    assert model.find_style([]) == 0
    assert model.find_style(["waves"]) == model.find_style(["waves=1"]) == 1
    assert model.find_style(["waves=0.75", "night=0.25"]).tolist() == [0.25, 0.75, 0]
    assert model.find_style(["waves=0.5", "waves=0.5"]).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["wave"], "unknown style 'wave', did you mean 'waves'"),
        (["waves", "night"], "--style waves: several styles have shares, as in --style waves=0.5"),
        (["waves=a"], "--style waves: several styles have shares"),
        (["waves=0.5"], r"the shares of the styles must sum to 1, got 0\.5: repeat --style NAME=SHARE .* --strength"),
        (["waves=nan", "night=1"], "smallest share of a style must be at least 0, got nan"),
        (["waves=1.5", "night=-0.5"], "smallest share of a style must be at least 0, got -0.5"),
        (["my/a.jpg"], "my/a.jpg: the network is trained for the styles night, waves; one of configs/any_style.yaml"),
    ],
)
def test_styles_that_there_are_not(chosen, message):
    with pytest.raises(SettingError, match=message) as error:
        make("night", "waves").find_style(chosen)
    assert "\n" not in str(error.value)


def test_a_picture_for_a_network_of_one_style():
    with pytest.raises(SettingError, match=r"--style me\.jpg: the network is trained for one style, night; one of"):
        make().find_style(["me.jpg"])


def test_the_module_that_the_checkpoint_names_is_loaded(tmp_path):
    run = save(make(), tmp_path / "style.ckpt")
    assert type(run.load(Painter)) is StyleTransfer
    gan = save(GAN(architecture="resnet16", channels=1, latent_dim=8), tmp_path / "gan.ckpt")
    with pytest.raises(SettingError, match=r"is a checkpoint of GAN, not of AnyStyle or StyleTransfer"):
        gan.load(Painter)

"""Networks that begin with a trained one, or add styles to it."""

import re

import pytest
import torch
from test_style_transfer import Noise, trainer
from torchvision.transforms.v2.functional import to_pil_image

import norms
from lightning_modules.gan import GAN
from lightning_modules.style_transfer import StyleTransfer
from norms.errors import SettingError
from training.network_files import write_network
from training.run import Run

PHOTO = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))


def make(**options):
    small = {"widths": [4, 8], "num_blocks": 1, "style_size": 64, "lr": 1e-2}
    return StyleTransfer(**{**small, "content_layers": ["relu1_2"], "style_layers": ["relu1_1"], **options})


@pytest.fixture(scope="module", params=[("batch_instance", False), ("switchable", False), ("batch_instance", True)])
def base(request, tmp_path_factory):
    """The file of a network of two styles, all of whose weights differ from a new network's."""
    torch.manual_seed(1)
    norm, separate = request.param
    model = make(styles=["night", "waves"], norm=norm, separate_norms=separate, noise=0.1, photo_size=200)
    model.setup("validate")
    with torch.no_grad():
        for value in model.transformer.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) * 0.4 + 0.5 if value.ndim < 3 else torch.randn_like(value) * 0.2)
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    write_network(model, path, {})
    return path


def loaded(path):
    return Run.find(path).load(StyleTransfer)


@torch.no_grad()
def averaged(model):
    """Give every style the average of what styles have of their own."""
    for module in model.modules():
        if isinstance(module, norms.ConditionalNorm):
            for table in (module.weight, module.bias):
                table.copy_(table.mean(0, keepdim=True).expand_as(table))
        if isinstance(module, norms.NormPerCondition):
            for values in zip(*(norm.state_dict().values() for norm in module.norms.values()), strict=True):
                for value in values:
                    value.copy_(torch.stack(values).double().mean(0))
    return model


def test_an_added_style_changes_nothing_of_the_others(base, tmp_path):
    torch.manual_seed(2)
    grown = make(style="glass", add_to=str(base))
    before, fit = loaded(base), trainer(3)
    fit.fit(grown, datamodule=Noise())
    fit.save_checkpoint(tmp_path / "grown.ckpt")
    base.rename(base.with_suffix(".moved"))  # which a trained network does not need any more
    try:
        after = loaded(tmp_path / "grown.ckpt")
    finally:
        base.with_suffix(".moved").rename(base)
    assert after.style_names == ["night", "waves", "glass"]
    assert after.hparams["noise"] == 0.1
    assert after.hparams["photo_size"] == 200
    with torch.no_grad():
        for style in (0, 1):
            assert after(PHOTO, style).equal(before(PHOTO, style))
        assert not torch.allclose(after(PHOTO, 2), averaged(before)(PHOTO, 0), atol=1e-3)
    assert all(image.numel() for image in after.style_images)


def test_an_added_style_begins_with_the_average_of_the_others(base):
    grown = make(style="glass", add_to=str(base))
    fit = trainer(0)
    fit.fit(grown, datamodule=Noise())
    grown.eval()
    with torch.no_grad():
        torch.testing.assert_close(grown(PHOTO, 2), averaged(loaded(base))(PHOTO, 0))


@pytest.mark.parametrize("options", [{"style": "glass"}, {"styles": ["glass", "quilt", "mosaic"]}])
def test_a_training_begins_with_the_average_of_all_styles(base, options):
    before = loaded(base)
    model = make(**options, start=str(base), norm=before.hparams["norm"], noise=0.1)
    trainer(0).fit(model, datamodule=Noise())
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(PHOTO), averaged(before)(PHOTO, 0))
    assert all(parameter.requires_grad for parameter in model.transformer.parameters())


def test_a_norm_of_another_kind_takes_what_it_has_in_common(base):
    model = make(style="glass", start=str(base), norm="instance")
    trainer(0).fit(model, datamodule=Noise())
    weights = Run.find(base).weights
    own = model.transformer.state_dict()
    gammas = [value for name, value in weights.items() if re.search(r"residual1\.norm1(\.norms\.\w+)?\.weight", name)]
    assert own["residual1.norm1.weight"].equal(
        torch.cat([gamma.view(-1, 8) for gamma in gammas]).double().mean(0).float()
    )
    assert own["last.weight"].equal(weights["transformer.last.weight"])


def test_what_does_not_fit(base, tmp_path):
    with pytest.raises(SettingError, match=r"first.conv.weight.*widths \[4, 8\] and num_blocks 1.*start null"):
        trainer(0).fit(make(style="glass", start=str(base), widths=[8, 8]), datamodule=Noise())
    for num_blocks, missing in ((0, "residual1.conv1"), (2, "residual2.conv1")):
        model = make(style="glass", start=str(base), num_blocks=num_blocks)
        with pytest.raises(SettingError, match=rf"{missing}.* num_blocks 1: give the same"):
            trainer(0).fit(model, datamodule=Noise())
    with pytest.raises(SettingError, match="both be called night: name it once, or give a copy of its file"):
        make(style="night", add_to=str(base))
    single = make(style="night")
    single.setup("validate")
    write_network(single, tmp_path / "single.safetensors", {})
    with pytest.raises(SettingError, match="trained for one style"):
        make(style="glass", add_to=str(tmp_path / "single.safetensors"))
    with pytest.raises(SettingError, match=r"nothing\.ckpt"):
        make(style="glass", add_to=str(tmp_path / "nothing.ckpt"))
    other = {"normlab": {"module": "GAN"}, "state_dict": GAN().state_dict(), "hyper_parameters": {}}
    torch.save(other, tmp_path / "gan.ckpt")
    with pytest.raises(SettingError, match="a network of GAN, not of StyleTransfer"):
        make(style="glass", add_to=str(tmp_path / "gan.ckpt"))
    to_pil_image(torch.rand(3, 40, 40)).save(tmp_path / "glass.png")
    assert make(style=str(tmp_path / "glass.png"), add_to=str(base)).style_names[-1] == "glass"

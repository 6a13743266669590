"""Large pictures are painted in tiles, and no seam shows."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

import norms
from lightning_modules.any_style import AnyStyle
from lightning_modules.style_transfer import StyleTransfer
from norms.errors import SettingError
from stylizing import tiles
from stylizing.tiles import paint_seen

over = pytest.mark.parametrize
CROP = (100, 40, 100 + 230, 40 + 200)


def painter(norm="batch_instance", **options):
    """A network whose norms have seen data, and whose gates and shares are mixed."""
    torch.manual_seed(0)
    options = {"widths": [4, 8], "num_blocks": 1, "noise": 0.2, **options}
    if norm == "batch_renorm":
        options["norm_options"] = {"momentum": 0.5}  # which settles after few batches
    model = StyleTransfer(norm=norm, **options)
    for _ in range(30):
        model.transformer(torch.rand(2, 3, 24, 24), *([torch.tensor([0, 1])] if "styles" in options else []))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("rho"):
                parameter.uniform_()
            elif "norm" in name:
                parameter.add_(0.3 * torch.rand_like(parameter))
        model.transformer.last.weight.mul_(10)  # for contrast
    return model.eval()


def picture(size=None):
    whole = Image.fromarray(load_sample_image("china.jpg")).crop(CROP)
    return whole.resize(size, Image.Resampling.LANCZOS) if size else whole


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 64 pixels, for pictures of more than 128 x 128."""
    for name, value in (("AT_ONCE", 128**2), ("TILE", 64), ("GRID", 8), ("PROBE", 128)):
        monkeypatch.setattr(tiles, name, value)


def difference(a, b):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b)).max()


def calls(model, monkeypatch):
    sizes, forward = [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda image, *rest, **more: sizes.append(image.shape) or forward(image, *rest, **more)
    )
    return sizes


@over("norm", norms.names())
def test_tiles_show_no_seams_for_any_norm(norm, small_tiles, monkeypatch):
    model, seen = painter(norm), picture()
    tiled = paint_seen(model, seen, 0)
    monkeypatch.setattr(tiles, "TILE", 1000)
    whole = paint_seen(model, seen, 0)
    assert np.asarray(whole).std() > 5
    assert difference(tiled, whole) <= 1


@over("norm", norms.names())
def test_with_statistics_of_the_same_resolution_tiles_are_the_untiled_result(norm, small_tiles, monkeypatch):
    model, seen = painter(norm), picture()
    with torch.inference_mode():
        plain = tiles._painted(model, tiles.to_tensor(seen), 0)
        monkeypatch.setattr(tiles, "AT_ONCE", 10**6)
        assert difference(paint_seen(model, seen, 0), plain) == 0
        with norms.fixed_statistics(model, tiles.to_tensor(seen)[None], 0):
            assert difference(tiles._in_tiles(model, seen, 0, lambda share: None), plain) <= 1


def test_tiles_without_fixed_statistics_would_show_seams(small_tiles, monkeypatch):
    model, seen = painter("instance"), picture()
    with torch.inference_mode():
        plain = tiles._painted(model, tiles.to_tensor(seen), 0)
        monkeypatch.setattr(tiles, "_reach", lambda *_: 32)
        assert difference(tiles._in_tiles(model, seen, 0, lambda share: None), plain) > 20


@over("options", [{"widths": [4, 8, 8], "num_blocks": 3}, {"upsampling": "bilinear"}, {"widths": [4], "num_blocks": 0}])
def test_tiles_are_shown_with_all_that_the_network_looks_at(options, small_tiles, monkeypatch):
    monkeypatch.setattr(tiles, "PROBE", 256)
    model, seen = painter("instance", **options), picture()
    tiled = paint_seen(model, seen, 0)
    monkeypatch.setattr(tiles, "TILE", 1000)
    assert difference(tiled, paint_seen(model, seen, 0)) <= 1


def test_the_reach_is_that_of_the_convolutions(small_tiles):
    """A network of one width has a 9x9 convolution at either end, and residual blocks of two 3x3 ones between."""
    for blocks in (0, 2):
        model = painter("batch", widths=[4], num_blocks=blocks)
        assert tiles._reach(model, 0) == 4 + 2 * blocks + 4


def test_mixtures_of_styles_are_painted_in_tiles(small_tiles, monkeypatch):
    model, seen = painter(styles=["night", "waves"]), picture()
    pictures = [paint_seen(model, seen, style) for style in (0, 1, torch.tensor([0.5, 0.5]))]
    assert difference(pictures[0], pictures[1]) > 5
    monkeypatch.setattr(tiles, "TILE", 1000)
    assert difference(pictures[2], paint_seen(model, seen, torch.tensor([0.5, 0.5]))) <= 1


@over("size", [(1, 1), (1, 300), (300, 1), (65, 64), (129, 130), (200, 64 * 3 + 1)])
def test_every_size_is_kept(size, small_tiles):
    assert paint_seen(painter(), picture(size), 0).size == size


def test_the_network_never_sees_more_than_a_tile_and_what_surrounds_it(small_tiles, monkeypatch):
    model, shares = painter(), []
    sizes = calls(model, monkeypatch)
    paint_seen(model, picture(), 0, shares.append)
    assert max(height * width for *_, height, width in sizes) <= 128**2
    assert shares == [(n + 1) / 16 for n in range(16)]


def test_small_pictures_are_painted_at_once(small_tiles, monkeypatch):
    model, shares = painter(), []
    sizes = calls(model, monkeypatch)
    paint_seen(model, picture((128, 128)), 0, shares.append)
    assert [tuple(size) for size in sizes] == [(1, 3, 128, 128)]
    assert shares == [1]


def test_networks_of_any_style_paint_in_tiles(small_tiles, monkeypatch):
    monkeypatch.setattr(tiles, "PROBE", 256)
    torch.manual_seed(0)
    model = AnyStyle(photo_size=64, style_size=64).eval()
    model.setup("fit")
    style, seen = model.find_style(["waves"]), picture()
    tiled = paint_seen(model, seen, style)
    monkeypatch.setattr(tiles, "TILE", 1000)
    whole = paint_seen(model, seen, style)
    assert np.asarray(whole).std() > 5
    assert difference(tiled, whole) <= 1


def test_a_network_that_looks_at_all_of_a_picture_is_refused(small_tiles, monkeypatch):
    model = painter()
    forward = model.transformer.forward
    monkeypatch.setattr(model.transformer, "forward", lambda x, *style: forward(x, *style) / forward(x, *style).amax())
    with pytest.raises(SettingError, match="cannot paint in tiles, since it looks at all of a photo at once"):
        paint_seen(model, picture(), 0)


def test_noise_belongs_to_a_place():
    model = painter("none", widths=[4], num_blocks=0)
    image = torch.rand(1, 3, 300, 280)
    whole = model(image)
    part = model(image[..., 120:290, 100:270], 0, (120, 100))
    torch.testing.assert_close(part[..., 8:-8, 8:-8], whole[..., 128:282, 108:262])
    other = model(image[..., 120:290, 100:270])
    assert not torch.allclose(other[..., 8:-8, 8:-8], whole[..., 128:282, 108:262], atol=1e-2)

"""A photo of any size is painted with strokes as broad as the picture is large."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image
from stand_ins import Painter

from lightning_modules.losses.perceptual import PerceptualLoss, usual_terms
from lightning_modules.networks.loss_network import LossNetwork, default_layers
from lightning_modules.style_transfer import StyleTransfer
from norms.errors import SettingError
from stylizing import painting
from stylizing.masks import Region
from stylizing.painting import Colors, Manner, paint


def small_painter(formula):
    return Painter(formula, photo_size=64)


def photo(longer=640):
    image = Image.fromarray(load_sample_image("china.jpg"))
    return image.resize((longer, longer * image.height // image.width), Image.Resampling.LANCZOS)


def error(a, b):
    return np.abs(np.asarray(a).astype(float) - np.asarray(b)).mean()


def test_the_network_sees_the_photo_at_the_size_of_the_training_by_the_size_of_the_strokes():
    seen = []
    model = small_painter(lambda image: seen.append(image.shape[-2:]) or image)
    for stroke_size in (0.5, 1, 2):
        assert paint(model, photo(100), Manner(stroke_size=stroke_size)).size == (100, 66)
    assert seen == [(84, 128), (42, 64), (21, 32)]


def test_at_the_size_of_the_training_the_result_is_what_the_network_makes():
    image = photo(64)
    result = paint(small_painter(lambda image: 1 - image), image)
    assert np.abs(np.asarray(result).astype(int) + np.asarray(image) - 255).max() <= 1


@pytest.mark.parametrize("formula", [lambda x: x, lambda x: 1 - x, lambda x: 0.3 + 0.5 * x])
def test_detail_comes_back_where_the_painting_follows_the_photo(formula):
    image = photo(320)
    expected = (formula(torch.from_numpy(np.array(image)).double() / 255) * 255).round().numpy()
    plain = Image.fromarray(expected.astype(np.uint8)).resize((64, 42), Image.Resampling.LANCZOS)
    blurred = error(plain.resize(image.size, Image.Resampling.BICUBIC), expected)
    assert error(paint(small_painter(formula), image), expected) < 0.75 * blurred


def test_a_painting_that_does_not_follow_the_photo_gets_none_of_its_detail():
    result = paint(small_painter(lambda image: torch.full_like(image, 0.4)), photo(200))
    assert set(np.unique(np.asarray(result))) == {102}


def test_strips_show_no_seams(monkeypatch):
    model, image = small_painter(lambda image: image.flip(1) ** 2), photo(300)
    manner = Manner(strength=0.8, colors="luma")
    expected = np.asarray(paint(model, image, manner))
    monkeypatch.setattr(painting, "STRIP", 7 * 300)
    assert np.abs(np.asarray(paint(model, image, manner)).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (4999, 333), (129, 257)])
def test_results_are_as_large_as_the_photo(size):
    image = photo().resize(size)
    for stroke_size in (0.5, 1, 3):
        assert paint(small_painter(lambda x: 1 - x), image, Manner(stroke_size=stroke_size)).size == size


@settings(max_examples=25)
@given(st.integers(1, 90), st.integers(1, 90), st.floats(0.2, 5), st.sampled_from(get_args(Colors)))
def test_results_of_any_size(width, height, stroke_size, colors):
    image = photo(100).resize((width, height))
    assert paint(small_painter(lambda x: x), image, Manner(0, stroke_size, 1, colors)).size == (width, height)


def test_a_result_may_take_the_place_of_the_photo(monkeypatch):
    monkeypatch.setattr(painting, "STRIP", 7 * 300)
    image, model = photo(300), small_painter(lambda image: image.flip(1) ** 2)
    expected = paint(model, image)
    assert np.asarray(image).tobytes() != np.asarray(expected).tobytes()
    assert paint(model, image, in_place=True) is image
    assert np.asarray(image).tobytes() == np.asarray(expected).tobytes()


def test_regions_are_painted_in_their_styles():
    image, mask, shares = photo(64), Image.new("L", (32, 21)), []
    mask.paste(255, (0, 0, 16, 21))
    model = small_painter(None)
    model.forward = lambda x, style: torch.full_like(x, style / 4)
    result = np.asarray(paint(model, image, Manner(1, regions=[Region(mask, 3, "mask.png")]), shares.append))
    assert result[:, :20].min() >= 189
    assert result[:, 44:].max() <= 66
    assert shares == [0.5, 1]


def test_a_mask_of_another_shape_is_refused_before_anything_is_painted():
    region = Region(Image.new("L", (21, 32)), 0, "mask.png")
    with pytest.raises(SettingError, match=r"the mask mask\.png has 21x32 pixels, and the photo 64x42"):
        paint(small_painter(None), photo(64), Manner(regions=[region]))


@pytest.mark.parametrize("colors", ["histogram", "covariance"])
def test_colors_of_the_photo_are_matched(colors):
    image, model = photo(64), small_painter(lambda image: 0.3 + 0.4 * image.flip(1))
    painted, result = (np.asarray(paint(model, image, Manner(colors=each))) for each in ("painted", colors))
    wanted = np.asarray(image)
    assert error(result.mean((0, 1)), wanted.mean((0, 1))) < 3 < error(painted.mean((0, 1)), wanted.mean((0, 1)))
    assert error(result.std((0, 1)), wanted.std((0, 1))) < 6 < error(painted.std((0, 1)), wanted.std((0, 1)))


@pytest.mark.slow
def test_the_look_does_not_depend_on_the_size_of_the_photo():
    torch.manual_seed(0)
    model = StyleTransfer(widths=[4, 8], num_blocks=1, photo_size=360, style_size=256)
    model.setup("fit")
    layers = default_layers("bundled")
    loss = PerceptualLoss(LossNetwork("bundled", layers.style), usual_terms(layers.style, layers.style))
    loss.set_style(model.style_image[None] / 255)
    styles = []
    for longer in (360, 720, 1440, 2880):
        result = paint(model.eval(), photo(longer)).resize((360, 240), Image.Resampling.LANCZOS)
        image = torch.from_numpy(np.array(result)).permute(2, 0, 1)[None] / 255
        styles.append(float(loss(image, image)["style"]))
    assert max(styles) < 1.5 * min(styles), styles

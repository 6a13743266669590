"""A photo of any size is painted with strokes as broad as the picture is large."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from stand_ins import Painter

from lightning_modules.losses.perceptual import PerceptualLoss, usual_terms
from lightning_modules.networks.loss_network import LossNetwork, default_layers
from lightning_modules.style_transfer import StyleTransfer
from stylizing import painting
from stylizing.painting import Manner, paint


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
    manner = Manner(strength=0.8, keep_colors=True)
    expected = np.asarray(paint(model, image, manner))
    monkeypatch.setattr(painting, "STRIP", 7)
    assert np.abs(np.asarray(paint(model, image, manner)).astype(int) - expected).max() <= 1


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

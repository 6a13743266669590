import numpy as np
import pytest
from PIL import Image
from skimage import data
from skimage.exposure import match_histograms as by_skimage

from data import colors
from data.colors import match_covariance, match_histograms


def picture(mean, deviations, size=(160, 120), seed=0):
    """A picture whose colors are spread evenly around a mean, by a matrix."""
    values = np.random.default_rng(seed).uniform(-1, 1, (size[1], size[0], 3)) @ np.array(deviations).T
    return Image.fromarray((values + mean).clip(0, 255).round().astype(np.uint8))


BLUE = picture([90, 110, 150], [[20, 5, 0], [5, 20, 5], [0, 10, 40]])
ORANGE = picture([170, 120, 90], [[40, 0, 10], [10, 25, 0], [0, 5, 15]], (50, 90), seed=1)
GRAY = Image.fromarray(np.random.default_rng(2).integers(60, 190, (80, 80), dtype=np.uint8)).convert("RGB")


def moments(image):
    values = np.asarray(image).reshape(-1, 3).astype(float)
    return values.mean(0), np.cov(values.T, bias=True)


@pytest.mark.parametrize("reference", [BLUE, ORANGE])
@pytest.mark.parametrize("source", [BLUE, ORANGE])
def test_mean_and_covariance_become_those_of_the_reference(source, reference):
    result = match_covariance(source, reference)
    assert result.size == source.size
    for own, wanted in zip(moments(result), moments(reference), strict=True):
        np.testing.assert_allclose(own, wanted, rtol=0.02, atol=1)


def test_colors_that_match_stay_as_they_are():
    assert np.abs(np.asarray(match_covariance(BLUE, BLUE)).astype(int) - np.asarray(BLUE)).max() <= 1
    assert (np.asarray(match_histograms(BLUE, BLUE)) == np.asarray(BLUE)).all()


def test_the_map_is_that_of_the_symmetric_roots():
    """Where channels are independent, it scales each by the ratio of deviations."""
    source = picture([100, 120, 140], np.diag([10, 20, 30]))
    reference = picture([120, 130, 110], np.diag([30, 10, 40]), seed=3)
    (mean, own), (new_mean, other) = moments(source), moments(reference)
    expected = (np.asarray(source) - mean) * np.sqrt(np.diag(other) / np.diag(own)) + new_mean
    assert np.abs(np.asarray(match_covariance(source, reference)) - expected).max() < 3


def test_gray_pictures_have_no_colors_to_spread():
    result = np.asarray(match_covariance(GRAY, ORANGE)).astype(float)
    np.testing.assert_allclose(result.mean((0, 1)), moments(ORANGE)[0], atol=1)
    assert (np.abs(np.diff(np.asarray(match_covariance(ORANGE, GRAY)).astype(int), axis=2)) <= 3).all()
    flat = Image.new("RGB", (30, 20), (10, 200, 30))
    assert np.abs(np.asarray(match_covariance(flat, ORANGE)) - moments(ORANGE)[0]).max() <= 1


def test_large_pictures_are_measured_in_parts(monkeypatch):
    expected = colors._moments(BLUE)
    monkeypatch.setattr(colors, "_PART", 999)
    for own, wanted in zip(colors._moments(BLUE), expected, strict=True):
        np.testing.assert_allclose(own, wanted)


@pytest.mark.parametrize("reference", [ORANGE, GRAY, Image.fromarray(data.astronaut())])
@pytest.mark.parametrize("source", [BLUE, Image.fromarray(data.coffee())])
def test_histograms_are_matched_as_by_scikit_image(source, reference):
    expected = by_skimage(np.asarray(source), np.asarray(reference), channel_axis=-1)
    assert np.abs(np.asarray(match_histograms(source, reference)) - expected).max() <= 1


def test_tones_that_the_reference_has_not_do_not_come_up():
    two = Image.fromarray(np.repeat(np.array([[20, 220]], np.uint8), 50, axis=0)).convert("RGB")
    result = np.asarray(match_histograms(two, two.point(lambda tone: tone // 2)))
    assert set(np.unique(result)) == {10, 110}

"""What is found of a Lipschitz constant, for functions whose constant is known."""

import pytest
import torch

from lightning_modules.networks.sensitivity import steepest, steepest_pairs

IMAGES = torch.rand(5, 1, 3, 4, generator=torch.Generator().manual_seed(0))


def linear(outputs):
    matrix = torch.randn(outputs, 12, generator=torch.Generator().manual_seed(1))
    return matrix, lambda images: images.flatten(1) @ matrix.T


@pytest.mark.parametrize("outputs", [1, 3, 20])
def test_a_linear_map_is_as_steep_everywhere_as_its_largest_singular_value(outputs):
    matrix, function = linear(outputs)
    _, values, right = torch.linalg.svd(matrix)
    slopes, directions = steepest(function, IMAGES)
    torch.testing.assert_close(slopes, values[0].expand(5))
    assert (directions.flatten(1) @ right[0]).abs() == pytest.approx(torch.ones(5).numpy(), abs=1e-5)
    torch.testing.assert_close(steepest_pairs(function, IMAGES, -100.0, 100.0, steps=5), values[0].expand(5))


def test_the_slope_of_one_output_is_the_length_of_its_gradient():
    slopes, _ = steepest(lambda images: images.flatten(1).square().sum(1), IMAGES)
    torch.testing.assert_close(slopes, 2 * IMAGES.flatten(1).norm(dim=1))


def test_the_ascent_finds_steeper_places_and_nothing_beyond_the_steepest():
    def function(images):
        return images.flatten(1).square().sum(1)

    constant = 2 * 12**0.5  # at the corner of ones
    start, _ = steepest(function, IMAGES)
    found = steepest_pairs(function, IMAGES, 0.0, 1.0, steps=60)
    assert (found > 1.2 * start).all()
    assert (found <= constant * (1 + 1e-5)).all()


def test_it_finds_a_slope_that_no_gradient_leads_to_by_a_single_image():
    def function(images):  # flat up to 0.6, where pairs alone feel the slope beyond
        return 5 * torch.relu(images.flatten(1).mean(1) - 0.6) + 0.1 * images.flatten(1).mean(1)

    images = torch.full((1, 1, 3, 4), 0.52)
    (before,), (found,) = steepest(function, images)[0], steepest_pairs(function, images, 0.0, 1.0)
    assert float(before) == pytest.approx(0.1 / 12**0.5)
    assert float(found) == pytest.approx(5.1 / 12**0.5, rel=1e-3)


def test_a_constant_has_no_slope():
    slopes, directions = steepest(lambda images: 0 * images.flatten(1), IMAGES)
    assert not slopes.any()
    assert directions.isfinite().all()
    assert not steepest_pairs(lambda images: 0 * images.flatten(1), IMAGES, 0.0, 1.0, steps=2).any()

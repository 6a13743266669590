import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data.stream import generator
from lightning_modules.augmentation import KINDS, AdaptiveAugment, DiffAugment, build_augmentation
from norms.errors import SettingError


def pictures(count=6, channels=3, size=8, dtype=torch.float32):
    return 2 * torch.rand(count, channels, size, size, generator=generator(0)).to(dtype) - 1


def always(*kinds):
    """Return an adaptive augmentation that changes every image."""
    augment = AdaptiveAugment(highest=1, kinds=kinds)
    augment.probability.fill_(1)
    return augment


def uniform(count, images, seed=5):
    """Return the draws that the first kind of a DiffAugment has."""
    return torch.rand(count, len(images), generator=generator(seed))


@pytest.mark.parametrize("channels", [1, 3])
def test_color(channels):
    images = pictures(channels=channels)
    draws = uniform(3, images)
    found = DiffAugment(["color"])(images, generator(5))
    for index, image in enumerate(images.double()):
        bright = image + draws[0, index] - 0.5
        gray = bright.mean(0)
        colored = torch.stack([gray + 2 * draws[1, index] * (channel - gray) for channel in bright])
        expected = colored.mean() + (draws[2, index] + 0.5) * (colored - colored.mean())
        torch.testing.assert_close(found[index].double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("size", "farthest"), [(8, 1), (12, 2), (32, 4)])
def test_translation_against_a_loop(size, farthest):
    images = pictures(size=size)
    draws = uniform(2, images)
    found = DiffAugment(["translation"])(images, generator(5))
    for index, image in enumerate(images):
        down, right = (int((2 * farthest + 1) * draw) - farthest for draw in draws[:, index])
        expected = torch.zeros_like(image)
        for row in range(size):
            for column in range(size):
                if 0 <= row - down < size and 0 <= column - right < size:
                    expected[:, row, column] = image[:, row - down, column - right]
        assert torch.equal(found[index], expected)


@pytest.mark.parametrize(("size", "side"), [(8, 4), (9, 5), (32, 16)])
def test_cutout_against_a_loop(size, side):
    images = pictures(size=size)
    draws = uniform(2, images)
    found = DiffAugment(["cutout"])(images, generator(5))
    for index, image in enumerate(images):
        # An even square may have its middle behind the last pixel, an odd one not.
        top, left = (int((size + 1 - side % 2) * draw) - side // 2 for draw in draws[:, index])
        expected = image.clone()
        for row in range(top, top + side):
            for column in range(left, left + side):
                if 0 <= row < size and 0 <= column < size:
                    expected[:, row, column] = 0
        assert torch.equal(found[index], expected)


def test_translations_are_equally_frequent():
    images = torch.zeros(5000, 1, 16, 16)
    images[..., 8, 8] = 1
    moved = DiffAugment(["translation"])(images, generator(0)).flatten(1).argmax(1)
    counts = torch.bincount(moved, minlength=256).view(16, 16)
    assert counts.sum() == counts[6:11, 6:11].sum() == 5000
    # Pearson's statistic has 24 degrees of freedom: 52 is beyond the 99.9th percentile.
    assert ((counts[6:11, 6:11] - 200).square() / 200).sum() < 52


def test_flips_and_turns_are_equally_frequent():
    images = torch.arange(4.0).view(1, 1, 2, 2).expand(4000, 1, 2, 2)
    for kind, versions in (("flip", 2), ("rotate", 4)):
        counts = always(kind)(images, generator(1)).flatten(1).unique(dim=0, return_counts=True)[1]
        assert len(counts) == versions
        assert (counts - 4000 / versions).abs().max() < 4 * math.sqrt(4000 / versions)


def reference(image, scale=1.0, down=0.0, right=0.0):
    """Move and enlarge an image about its middle by torch's sampler."""
    size = image.shape[-1]
    matrix = [[1 / scale, 0, -2 * right / size], [0, 1 / scale, -2 * down / size]]
    grid = F.affine_grid(torch.tensor([matrix], dtype=image.dtype), [1, *image.shape], align_corners=False)
    return F.grid_sample(image[None], grid, "bilinear", "reflection", align_corners=False)[0]


@pytest.mark.parametrize("kind", ["scale", "shift"])
def test_scale_and_shift_sample_as_torch_does(kind):
    images = pictures(count=40, size=9, dtype=torch.float64)
    count = KINDS[kind][0]
    # The first draw decides whether an image is changed at all.
    normal = torch.special.ndtri(torch.rand(1 + count, len(images), generator=generator(3))[1:].double())
    found = always(kind)(images, generator(3))
    for index, image in enumerate(images):
        if kind == "scale":
            expected = reference(image, scale=2 ** (0.2 * normal[0, index]))
        else:
            down, right = 9 / 8 * normal[:, index]
            expected = reference(image, down=down, right=right)
        torch.testing.assert_close(found[index], expected)


def test_rotation_turns_the_image():
    images = pictures(count=40)
    turns = (4 * torch.rand(2, 40, generator=generator(2))[1]).int()
    found = always("rotate")(images, generator(2))
    for image, turned, count in zip(images, found, turns, strict=True):
        assert torch.equal(turned, torch.rot90(image, int(count), (1, 2)))


def test_the_smallest_draw_leaves_the_image_finite():
    images = pictures(count=2)
    for count, change in KINDS.values():
        assert change(images, torch.zeros(count, 2, 1, 1, 1)).isfinite().all()


AUGMENTATIONS = [DiffAugment(), always(*KINDS)]


@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_first_and_second_derivatives(augment, channels):
    images = pictures(3, channels, 4, torch.float64).requires_grad_()

    def curved(images):
        return augment(images.tanh(), generator(0))

    assert torch.autograd.gradcheck(curved, images)
    assert torch.autograd.gradgradcheck(curved, images)


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_draws_come_from_the_generator_alone(augment):
    images = pictures()
    state = torch.get_rng_state()
    first = augment(images, generator(1))
    assert torch.equal(first, augment(images, generator(1)))
    assert not torch.equal(first, augment(images, generator(2)))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == images.shape
    assert first.dtype == images.dtype


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_each_image_has_its_own_draws(augment):
    same = pictures(1).expand(6, -1, -1, -1)
    assert len(augment(same, generator(4)).unique(dim=0)) == 6


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_real_and_generated_images_are_augmented_alike(augment):
    # The same image is augmented as a real and as a generated one, in two calls on one generator.
    image = pictures(1, size=6).expand(4000, -1, -1, -1)
    draws = generator(6)
    real, fake = (augment(image, draws) for _ in range(2))
    for power in (1, 2):
        a, b = real.double() ** power, fake.double() ** power
        error = ((a.var(0) + b.var(0)) / 4000).sqrt()
        assert ((a.mean(0) - b.mean(0)) / error).abs().max() < 4.5


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_autocast_changes_nothing(augment):
    images = pictures()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(images, generator(1)), augment(images, generator(1)))
        found = augment(images, generator(1))
    assert torch.equal(found, augment(images, generator(1)))


def test_adaptive_starts_with_the_images_as_they_are():
    images = pictures().requires_grad_()
    found = AdaptiveAugment(kinds=tuple(KINDS))(images, generator(0))
    assert torch.equal(found, images)
    assert torch.equal(torch.autograd.grad(found.sum(), images)[0], torch.ones_like(images))


def test_adaptive_changes_the_share_of_images_that_it_says():
    augment = AdaptiveAugment(kinds=["scale"])
    augment.probability.fill_(0.3)
    images = pictures(1).expand(4000, -1, -1, -1)
    changed = (augment(images, generator(0)) != images).flatten(1).any(1).double().mean()
    assert changed.item() == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / 4000))


def test_kinds_are_chosen_one_by_one():
    augment = AdaptiveAugment(kinds=["cutout", "color"])
    augment.probability.fill_(0.5)
    images = torch.ones(2000, 1, 8, 8)
    found = augment(images, generator(0)).flatten(1)
    cut = found.std(1) > 0
    colored = found.amax(1) != 1
    assert (cut & colored).double().mean().item() == pytest.approx(0.25, abs=0.04)
    assert (~cut & ~colored).double().mean().item() == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probability_follows_the_closed_form(dtype):
    augment = AdaptiveAugment(target=0.6, images=1000, highest=0.8).to(dtype)
    expected = 0.0
    for sign_mean in [0.0, 1.0, 0.7, 0.6, 0.5, *[1.0] * 12, 0.2, -1.0]:
        augment.update_(torch.tensor(sign_mean, dtype=torch.float64), batch=100)
        change = 0.1 if sign_mean > 0.6 else -0.1 if sign_mean < 0.6 else 0
        expected = min(max(expected + change, 0), 0.8)
        assert augment.probability.item() == pytest.approx(expected, abs=1e-6)
    assert augment.probability.dtype == dtype
    assert expected == pytest.approx(0.6)


def test_probability_reaches_one_after_as_many_images_as_asked():
    augment = AdaptiveAugment(images=6400, highest=1)
    for step in range(1, 101):
        augment.update_(torch.ones(()), batch=64)
        assert augment.probability.item() == pytest.approx(step / 100, abs=1e-6)


def test_probability_survives_the_state_bit_for_bit():
    first, resumed = AdaptiveAugment(images=1000), AdaptiveAugment(images=1000)
    first.update_(torch.ones(()), batch=333)
    resumed.load_state_dict(first.state_dict())
    for augment in (first, resumed):
        augment.update_(torch.ones(()), batch=77)
    assert torch.equal(first.probability, resumed.probability)
    images = pictures(20)
    assert torch.equal(first(images, generator(0)), resumed(images, generator(0)))


class Mirror(nn.Module):
    """A user's own."""

    def __init__(self, share: float = 0.5):
        super().__init__()
        self.share = share

    def forward(self, images, generator):
        return images.flip(-1)


def test_choices():
    assert build_augmentation(None) is None
    assert build_augmentation("none", {}) is None
    assert build_augmentation("diff", {"kinds": ["cutout"]}).kinds == ("cutout",)
    adaptive = build_augmentation("adaptive", {"target": 0.5, "images": 1000})
    assert (adaptive.target, adaptive.images) == (0.5, 1000)
    assert build_augmentation(f"{__name__}.Mirror", {"share": 1.0}).share == 1.0


@pytest.mark.parametrize(
    ("choice", "options", "message"),
    [
        ("dif", None, r"unknown augmentation 'dif', did you mean 'diff'\? \(known: none, diff, adaptive\)"),
        ("none", {"kinds": ["color"]}, "without augmentation there are no options for it, got kinds"),
        ("diff", {"kind": ["color"]}, "augmentation 'diff' cannot be made: got an unexpected keyword argument 'kind'"),
        (
            "diff",
            {"kinds": ["flip"]},
            r"unknown kind of augmentation 'flip' \(known: color, translation, cutout\)",
        ),
        ("diff", {"kinds": "color"}, "kinds must be a list of one or more of color, translation, cutout, got 'color'"),
        ("diff", {"kinds": []}, r"kinds must be a list of one or more of color, translation, cutout, got \[\]"),
        ("diff", {"kinds": [1]}, r"unknown kind of augmentation '1' \(known: color, translation, cutout\)"),
        ("diff", {"kinds": ["color", None]}, "unknown kind of augmentation 'None'.*"),
        ("adaptive", {"target": 1}, "target must be at least 0 and below 1, got 1"),
        ("adaptive", {"images": 0}, "images must be above 0 and below inf, got 0"),
        ("adaptive", {"highest": 1.5}, "highest must be above 0 and at most 1, got 1.5"),
        ("adaptive", {"target": "high"}, "target must be a number, got 'high'"),
        ("math.sqrt", None, r"augmentation 'math.sqrt' cannot be made: missing a required argument: 'x'"),
        ("builtins.dict", None, "augmentation 'builtins.dict' (cannot be made: .*|is no torch.nn.Module)"),
        ("torch.nn.ReLU", None, "augmentation 'torch.nn.ReLU' is not called with images and a generator: too many .*"),
    ],
)
def test_wrong_choices(choice, options, message):
    with pytest.raises(SettingError, match=f"^{message}$"):
        build_augmentation(choice, options)

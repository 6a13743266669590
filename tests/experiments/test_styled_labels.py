"""Images in a haze, as a disturbance or as the label."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.styled_labels import HAZES, StyledFolder, haze, haze_label
from norms.errors import SettingError

COUNT = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root: Path = tmp_path_factory.mktemp("images")
    for number in range(COUNT):
        path = root / ("cat" if number % 2 else "dog") / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return str(root)


def served(folder, style, seed=0, flip=False):
    return StyledFolder(path=folder, val_path=folder, style=style, seed=seed, batch_size=4, image_size=8, flip=flip)


def test_instance_normalization_undoes_a_haze():
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hazy = haze(image, hue=0.4, density=0.6)
    plain, undone = (torch.nn.functional.instance_norm(x[None], eps=0.0) for x in (image, hazy))
    torch.testing.assert_close(undone, plain)
    assert (hazy - image).abs().max() > 0.1


@pytest.mark.parametrize(
    ("hue", "density", "name"), [(0, 0.2, "thin orange"), (1 / 3, 0.8, "dense green"), (2 / 3, 0.49, "thin blue")]
)
def test_a_haze_has_the_color_that_its_label_names(hue, density, name):
    assert HAZES[haze_label(hue, density)] == name
    light = haze(torch.zeros(3, 1, 1), hue, 1.0).flatten()
    assert light.argmax() == round(hue * 3)
    assert light.mean() == pytest.approx(0.5)


def test_only_the_labels_tell_noise_from_what_matters(folder):
    noise, matters, plain = (served(folder, style, flip=True) for style in ("noise", "matters", "plain"))
    streams = [data.train_stream() for data in (noise, matters, plain)]
    items = [[stream[position] for position in range(4 * COUNT)] for stream in streams]
    for disturbed, styled, bare in zip(*items, strict=True):
        torch.testing.assert_close(disturbed["image"], styled["image"], rtol=0, atol=0)
        assert disturbed["label"] == bare["label"] < 2
        assert not torch.equal(disturbed["image"], bare["image"])
    assert len({item["label"] for item in items[1]}) > 2
    assert matters.num_classes == 10
    assert (noise.num_classes, noise.class_names) == (2, ["cat", "dog"])


def test_an_image_keeps_its_haze_whatever_was_served_before(folder):
    first, again = served(folder, "matters"), served(folder, "matters")
    labels = [first.train_stream()[position]["label"] for position in range(COUNT)]
    stream = again.train_stream()
    assert [stream[position]["label"] for position in reversed(range(COUNT))] == labels[::-1]
    by_image = {stream.index(position): stream[position]["label"] for position in range(COUNT)}
    assert all(by_image[stream.index(position)] == stream[position]["label"] for position in range(COUNT, 3 * COUNT))


def test_seeds_change_the_hazes_of_training_images_alone(folder):
    one, other = served(folder, "matters", seed=1), served(folder, "matters", seed=2)
    held_out, shown = ([data.val_images()[i] for i in range(COUNT)] for data in (one, other))
    assert all(torch.equal(first["image"], second["image"]) for first, second in zip(held_out, shown, strict=True))
    first, second = (
        {stream.index(position): stream[position]["label"] for position in range(COUNT)}
        for stream in (one.train_stream(), other.train_stream())
    )
    assert first != second


def test_an_unknown_style_is_told(folder):
    with pytest.raises(SettingError, match="noise"):
        served(folder, "noisy")

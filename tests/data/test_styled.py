"""Pairs of photos and style pictures: which, in what order, and of what colors."""

import pytest
import torch
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from data.styled import StyledPhotos, recolored
from data.styles import open_style
from norms.errors import SettingError


def folder(path, shades, size=20):
    """Images of one gray each, in folders within the folder."""
    for index, shade in enumerate(shades):
        inner = path / f"part{index % 2}"
        inner.mkdir(parents=True, exist_ok=True)
        to_pil_image(torch.full((3, size, size), shade / 255)).save(inner / f"{index}.png")
    return str(path)


def shades(images):
    return [round(255 * float(value)) for value in images.mean((1, 2, 3))]


@pytest.fixture
def folders(tmp_path):
    photos = {"folder": range(10), "val_folder": range(50, 53)}
    styles = {"styles": range(100, 107), "val_styles": range(150, 152)}
    return {name: folder(tmp_path / name, values) for name, values in (photos | styles).items()}


def batches(data, count, start=0):
    stream = data.train_stream()
    items = [stream[position] for position in range(start, start + count)]
    return shades(torch.stack([item["image"] for item in items])), shades(torch.stack([i["style"] for i in items]))


def test_every_photo_and_every_style_come_once_in_a_pass_of_their_own(folders):
    photos, styles = batches(StyledPhotos(**folders, image_size=16), 70)
    for first in range(0, 70, 10):
        assert sorted(photos[first : first + 10]) == list(range(10))
    for first in range(0, 70, 7):
        assert sorted(styles[first : first + 7]) == list(range(100, 107))
    assert len(set(zip(photos, styles, strict=True))) > 35


def test_pairs_depend_on_seed_and_position_alone(folders):
    data = StyledPhotos(**folders, image_size=16)
    whole = batches(data, 20)
    assert batches(StyledPhotos(**folders, image_size=16), 8, start=12) == tuple(each[12:] for each in whole)
    assert batches(StyledPhotos(**folders, image_size=16, seed=1), 20) != whole


def test_validation_pairs_photos_with_held_out_styles_in_order(folders):
    (batch,) = StyledPhotos(**folders, image_size=16).val_dataloader()
    assert shades(batch["image"]) == [50, 52, 51]  # by their paths
    assert shades(batch["style"]) == [150, 151, 150]


def test_without_folders_waves_is_held_out():
    data = StyledPhotos(image_size=32)
    waves = pil_to_tensor(open_style("waves")).float().mean() / 255
    (batch,) = data.val_dataloader()
    assert batch["style"].shape == batch["image"].shape == (3, 3, 32, 32)
    assert float(batch["style"].mean()) == pytest.approx(float(waves), abs=0.05)
    assert data.has_styles
    stream = data.train_stream()
    first, again = stream[0], StyledPhotos(image_size=32).train_stream()[0]
    assert all(torch.equal(first[key], again[key]) for key in ("image", "style"))


def test_colors_are_exchanged_and_nothing_else():
    image = torch.rand(3, 4, 4)
    seen = {tuple(recolored(image)[:, 0, 0].tolist()) for _ in range(200)}
    channels = image[:, 0, 0].tolist()
    orders = [[channels[i] for i in order] for order in torch.cartesian_prod(*[torch.arange(3)] * 3).tolist()]
    allowed = {tuple(torch.tensor(c).tolist()) for c in orders if len(set(c)) == 3}
    allowed |= {tuple((1 - torch.tensor(c)).tolist()) for c in allowed}
    assert seen <= allowed
    assert len(seen) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_styles": "x"}, "data.val_styles is set, and the pictures to train on are not"),
        ({"val_folder": "x"}, "data.val_folder is set"),
        ({"styles": "nonesuch"}, "nonesuch: no such folder"),
    ],
)
def test_folders_that_do_not_fit(options, message):
    with pytest.raises(SettingError, match=message):
        StyledPhotos(image_size=16, **options).setup()


def test_a_single_style_picture_is_told_from_a_single_photo(folders, tmp_path):
    single = folder(tmp_path / "single", [7])
    for option, wanted in (("folder", "val_folder"), ("styles", "val_styles")):
        given = {name: path for name, path in folders.items() if name != wanted} | {option: single}
        with pytest.raises(SettingError, match=rf"single image.* set data\.{wanted}$"):
            StyledPhotos(**given, image_size=16).setup()

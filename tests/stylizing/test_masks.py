import numpy as np
import pytest
from PIL import Image, ImageDraw

from norms.errors import SettingError
from stylizing.masks import MaskError, Region, blend, read_region


def half(size, left=255, right=0):
    mask = Image.new("L", size, left)
    ImageDraw.Draw(mask).rectangle((size[0] // 2, 0, *size), fill=right)
    return mask


def region(mask):
    return Region(mask, 1, "mask.png")


WHITE, BLACK = Image.new("RGB", (100, 60), "white"), Image.new("RGB", (100, 60))


def test_a_region_is_white_and_its_rim_soft():
    row = np.asarray(blend(BLACK, [(region(half((100, 60))), WHITE)]))[30, :, 0].astype(int)
    assert (row[:40] == 255).all()
    assert (row[60:] == 0).all()
    steps = np.diff(row)
    assert (steps <= 0).all()
    assert steps.min() > -60


def test_gray_is_a_share():
    result = np.asarray(blend(BLACK, [(region(Image.new("L", (100, 60), 64)), WHITE)]))
    assert set(np.unique(result)) == {64}


def test_the_last_region_covers_the_others():
    red = Image.new("RGB", (100, 60), "red")
    whole = region(Image.new("L", (100, 60), 255))
    result = np.asarray(blend(BLACK, [(whole, WHITE), (region(half((100, 60))), red)]))
    assert result[30, 10].tolist() == [255, 0, 0]
    assert result[30, 90].tolist() == [255, 255, 255]


@pytest.mark.parametrize("size", [(100, 60), (50, 30), (1000, 600), (33, 20), (101, 60)])
def test_masks_of_the_same_proportions_fit(size):
    region(half(size)).check((100, 60))
    row = np.asarray(blend(BLACK, [(region(half(size)), WHITE)]))[30, :, 0]
    assert row[30] == 255
    assert row[70] == 0


@pytest.mark.parametrize("height", [399, 400])
def test_masks_fit_whichever_way_a_program_has_rounded(height):
    region(half((600, height))).check((4001, 2667))


@pytest.mark.parametrize("size", [(60, 100), (100, 64), (10, 10), (1000, 640)])
def test_other_masks_do_not(size):
    message = rf"the mask mask\.png has {size[0]}x{size[1]} pixels, and the photo 100x60"
    with pytest.raises(MaskError, match=message):
        region(half(size)).check((100, 60))


def test_masks_are_read_from_files_of_any_kind(tmp_path):
    half((40, 20)).save(tmp_path / "gray.png")
    half((40, 20)).convert("RGB").save(tmp_path / "colors.jpg", quality=95)
    half((40, 20)).convert("1").save(tmp_path / "bits.png")
    cut = Image.new("RGBA", (40, 20), (255, 255, 255, 255))
    cut.paste((255, 255, 255, 0), (20, 0, 40, 20))
    cut.save(tmp_path / "cut.png")
    for name in ("gray.png", "colors.jpg", "bits.png", "cut.png"):
        mask = np.asarray(read_region(tmp_path / name, 2).mask).astype(int)
        assert mask.shape == (20, 40)
        assert mask[:, :18].min() >= 250
        assert mask[:, 22:].max() <= 5
    with pytest.raises(SettingError, match=r"none\.png: no such file"):
        read_region(tmp_path / "none.png", 0)

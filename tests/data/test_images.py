import os
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from data import images
from data.images import ImageError, check_image, load_image, to_tensor

ORIENTATION = 0x0112


def gradient(width: int = 48, height: int = 32) -> np.ndarray:
    """Smooth colors without symmetry, so that every flip or turn is seen."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 / (width - 1), y * 255 / (height - 1), 255 - (x + y) * 2], axis=-1).astype(np.uint8)


def pixels(path) -> np.ndarray:
    image = load_image(path)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_primaries() -> bytes:
    """An RGB profile whose first two colorants changed places: sRGB seen through it has red and green swapped."""
    profile = bytearray(srgb_profile())
    table = {}
    for entry in range(132, 132 + 12 * int.from_bytes(profile[128:132], "big"), 12):
        table[bytes(profile[entry : entry + 4])] = entry
    red, green = table[b"rXYZ"], table[b"gXYZ"]
    profile[red + 4 : red + 8], profile[green + 4 : green + 8] = (
        profile[green + 4 : green + 8],
        profile[red + 4 : red + 8],
    )
    return bytes(profile)


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, -1)),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_exif_orientation(tmp_path, orientation, undo, suffix):
    """A camera that stores `undo(scene)` and writes this orientation means the scene."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"turned.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(np.ascontiguousarray(undo(gradient()))).save(path, exif=exif, **options)
    assert np.array_equal(pixels(path), gradient())
    assert not load_image(path).getexif()


def test_broken_exif_is_an_image_still(tmp_path):
    path = tmp_path / "exif.jpg"
    Image.fromarray(gradient()).save(path, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7fgarbage", quality=100)
    assert np.abs(pixels(path) - gradient()).mean() < 3


def test_icc_profile_is_applied(tmp_path):
    path = tmp_path / "swapped.png"
    Image.fromarray(gradient()).save(path, icc_profile=swapped_primaries())
    assert np.abs(pixels(path) - gradient()[..., [1, 0, 2]]).max() <= 2
    assert "icc_profile" not in load_image(path).info


def test_srgb_profile_changes_nothing(tmp_path):
    path = tmp_path / "srgb.png"
    Image.fromarray(gradient()).save(
        path, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    assert np.abs(pixels(path) - gradient()).max() <= 1


def test_profile_applies_below_transparency(tmp_path):
    path = tmp_path / "swapped.png"
    half = np.dstack([gradient(), np.full((32, 48), 128, np.uint8)])
    Image.fromarray(half).save(path, icc_profile=swapped_primaries())
    expected = gradient()[..., [1, 0, 2]] * (128 / 255) + 127
    assert np.abs(pixels(path) - expected).max() <= 2


@pytest.mark.parametrize("profile", [b"not a profile", b"\0" * 200])
def test_broken_profiles_are_ignored(tmp_path, profile):
    path = tmp_path / "broken.png"
    Image.fromarray(gradient()).save(path, icc_profile=profile)
    assert np.array_equal(pixels(path), gradient())


def test_profile_of_another_kind_is_ignored(tmp_path):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(gradient()).save(tmp_path / "lab.png", icc_profile=lab)
    assert np.array_equal(pixels(tmp_path / "lab.png"), gradient())
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "cmyk.tiff", icc_profile=srgb_profile())
    assert pixels(tmp_path / "cmyk.tiff")[0, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_gray_is_scaled(tmp_path, suffix):
    values = np.linspace(0, 65535, 48 * 32).round().astype(np.uint16).reshape(32, 48)
    path = tmp_path / f"gray.{suffix}"
    Image.fromarray(values).save(path)
    expected = np.rint(values / 257).astype(int)
    assert np.array_equal(pixels(path), np.repeat(expected[..., None], 3, axis=2))


def test_big_endian_sixteen_bit_gray(tmp_path):
    """A plain PGM file, written by hand, stores 16 bits with the high byte first."""
    values = np.array([[0, 257, 32896, 65535]], dtype=">u2")
    path = tmp_path / "gray.pgm"
    path.write_bytes(b"P5 4 1 65535\n" + values.tobytes())
    assert pixels(path)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_sixteen_bit_color(tmp_path):
    values = np.linspace(0, 65535, 5 * 3).astype(">u2").reshape(1, 5, 3)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 5, 1, 16, 2, 0, 0, 0)
    path = tmp_path / "color.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" + values.tobytes()))
        + chunk(b"IEND", b"")
    )
    assert np.abs(pixels(path) - values.astype(float) / 257).max() <= 1


@pytest.mark.parametrize(
    "values", [np.full((4, 4), 0.5, np.float32), *(np.full((4, 4), high, np.int32) for high in (255, 60000, 70000))]
)
def test_images_without_a_range_are_refused(tmp_path, values):
    path = tmp_path / "science.tiff"
    Image.fromarray(values).save(path)
    with pytest.raises(ImageError, match=r"science\.tiff: floating-point and 32-bit") as error:
        load_image(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("alpha", [0, 51, 255])
def test_alpha_is_composited_over_white(tmp_path, alpha):
    path = tmp_path / "alpha.png"
    Image.new("RGBA", (4, 4), (200, 100, 0, alpha)).save(path)
    share = alpha / 255
    expected = [share * value + (1 - share) * 255 for value in (200, 100, 0)]
    assert np.abs(pixels(path)[2, 2] - expected).max() <= 1


def test_gray_with_alpha(tmp_path):
    path = tmp_path / "gray.png"
    Image.new("LA", (4, 4), (100, 51)).save(path)
    assert np.abs(pixels(path)[0, 0] - (0.2 * 100 + 0.8 * 255)).max() <= 1


@pytest.mark.parametrize("suffix", ["gif", "png"])
def test_palette_with_transparency(tmp_path, suffix):
    path = tmp_path / f"palette.{suffix}"
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(path, transparency=0)
    assert pixels(path)[0].tolist() == [[255, 255, 255], [0, 0, 255]]


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [("1", 1, [255, 255, 255]), ("L", 77, [77, 77, 77]), ("CMYK", (0, 255, 255, 0), [255, 0, 0])],
)
def test_other_modes(tmp_path, mode, color, expected):
    path = tmp_path / "mode.tiff"
    Image.new(mode, (3, 3), color).save(path)
    assert pixels(path)[1, 1].tolist() == expected


def test_first_frame_of_an_animation(tmp_path):
    path = tmp_path / "animation.gif"
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    red.save(path, save_all=True, append_images=[blue])
    assert pixels(path)[0, 0].tolist() == [255, 0, 0]


def noise_file(path: Path) -> bytes:
    values = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tiff", "gif"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_truncated_files_raise_one_kind_of_error(tmp_path, suffix, share):
    path = tmp_path / f"truncated.{suffix}"
    content = noise_file(path)
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageError, match=rf"truncated\.{suffix}: ") as error:
        load_image(path)
    assert "\n" not in str(error.value)


@settings(max_examples=60, deadline=None)
@given(suffix=st.sampled_from(["jpg", "png", "webp", "tiff", "gif"]), data=st.data())
def test_damage_anywhere_raises_nothing_else(tmp_path_factory, suffix, data):
    path = tmp_path_factory.mktemp("damage") / f"image.{suffix}"
    content = bytearray(noise_file(path))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert load_image(path).mode == "RGB"
        except ImageError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("name", "reason"), [("missing.png", "no such file"), ("folder", "directory"), ("notes.png", "not an image")]
)
def test_what_is_no_image(tmp_path, name, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.png").write_text("shopping list")
    for read in (load_image, check_image):
        with pytest.raises(ImageError, match=reason) as error:
            read(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [11, 20])
def test_bombs_are_refused(tmp_path, monkeypatch, side):
    """Pillow itself only warns up to twice its limit."""
    path = tmp_path / "bomb.png"
    Image.new("RGB", (side, side)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for read in (load_image, check_image):
        with pytest.raises(ImageError, match=r"bomb\.png: .*pixels") as error:
            read(path)
        assert "\n" not in str(error.value)
    assert Image.MAX_IMAGE_PIXELS == 100
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(path).size == (side, side)


def test_limit_itself_is_allowed(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    Image.new("RGB", (10, 10)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert load_image(path).size == (10, 10)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_check_finds_truncation_without_decoding(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"image.{suffix}"
    content = noise_file(path)
    assert check_image(path) == (64, 64)
    path.write_bytes(content + b"\0" * 50)
    assert check_image(path) == (64, 64)
    path.write_bytes(content + b"trailing notes of a camera")
    assert check_image(path) == (64, 64)
    path.write_bytes(content[:-400])
    with pytest.raises(ImageError):
        check_image(path)


def test_check_does_not_decode_whole_files(tmp_path, monkeypatch):
    noise_file(tmp_path / "image.jpg")
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    assert check_image(tmp_path / "image.jpg") == (64, 64)


def test_to_tensor():
    tensor = to_tensor(Image.fromarray(gradient()))
    assert tensor.dtype == torch.float32
    torch.testing.assert_close(tensor, torch.from_numpy(gradient().astype(np.float32) / 255).permute(2, 0, 1))
    assert to_tensor(Image.new("L", (5, 3), 51)).shape == (1, 3, 5)


def test_decoded_image_outlives_its_file(tmp_path):
    path = tmp_path / "gone.png"
    Image.fromarray(gradient()).save(path)
    image = load_image(path)
    path.unlink()
    assert np.array_equal(np.asarray(image), gradient())


def test_twelve_bit_gray(tmp_path):
    """A TIFF file, written by hand: two values share three bytes."""
    values = [0, 4095, 2048, 1024]
    packed = bytes.fromhex("".join(f"{value:03x}" for value in values))
    tags = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, len(packed))]
    content = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(tags))
    content += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + bytes(4)
    (tmp_path / "gray.tif").write_bytes(content)
    assert pixels(tmp_path / "gray.tif")[0, :, 0].tolist() == [0, 255, 128, 64]


def test_a_loop_of_links_is_no_image(tmp_path):
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    for read in (load_image, check_image):
        with pytest.raises(ImageError, match=r"a\.png: Too many levels of symbolic links"):
            read(tmp_path / "a.png")


@pytest.mark.timeout(30)
def test_named_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    for read in (load_image, check_image):
        with pytest.raises(ImageError, match=r"x\.png: a named pipe \(FIFO\), not a file"):
            read(tmp_path / "x.png")


HEIC = b"\0\0\0\x18ftypheic" + bytes(40)


@pytest.mark.parametrize("name", ["a.heic", "a.HIF", "sent.jpg"])
def test_heic_says_what_is_needed(tmp_path, monkeypatch, name):
    """Telephones and messengers also call such files .jpg."""
    monkeypatch.setattr(images, "_register_heif", lambda: None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setattr(Image, "ID", [kind for kind in Image.ID if kind != "HEIF"])
    (tmp_path / name).write_bytes(HEIC)
    with pytest.raises(ImageError, match=r"a HEIC file.*pip install 'normlab\[heif\]'") as error:
        load_image(tmp_path / name)
    assert "\n" not in str(error.value)


def test_heic_is_read_where_pillow_heif_is(tmp_path, monkeypatch):
    """Also without it: whoever imports it has its formats registered."""
    registered = []
    stand_in = type(sys)("pillow_heif")
    stand_in.register_heif_opener = lambda: registered.append(True)
    monkeypatch.setitem(sys.modules, "pillow_heif", stand_in)
    images._register_heif.cache_clear()
    noise_file(tmp_path / "a.png")
    load_image(tmp_path / "a.png")
    load_image(tmp_path / "a.png")
    assert registered == [True]
    images._register_heif.cache_clear()


def test_real_heic(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.fromarray(gradient())).save(tmp_path / "a.heic", quality=100)
    assert np.abs(pixels(tmp_path / "a.heic") - gradient()).mean() < 4
    assert check_image(tmp_path / "a.heic") == (48, 32)
    (tmp_path / "b.heic").write_bytes(HEIC)
    with pytest.raises(ImageError, match=r"b\.heic: a damaged HEIC file"):
        load_image(tmp_path / "b.heic")


@pytest.mark.parametrize("name", ["a.dng", "a.NEF", "a.cr3"])
def test_raw_data_are_no_thumbnails(tmp_path, name):
    Image.new("RGB", (8, 8)).save(tmp_path / name, "TIFF")
    with pytest.raises(ImageError, match="the raw data of a camera, save it as JPEG, PNG or TIFF"):
        load_image(tmp_path / name)

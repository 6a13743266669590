"""What a result keeps of its photo beside the picture."""

import functools
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from data.images import load_image
from stylizing.photo import EXIF, FRAMES, IPTC, PROFILE, TONES, TRANSPARENCY, XMP, read

Base, IFD = ExifTags.Base, ExifTags.IFD


def picture(width=48, height=32):
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 5, y * 7, 255 - x - y], axis=-1).astype(np.uint8))


def described():
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    exif[Base.Make], exif[Base.DateTime] = "Maker", "2020:01:02 03:04:05"
    exif.get_ifd(IFD.Exif).update({Base.DateTimeOriginal: "2019:01:02 03:04:05", Base.ExifImageWidth: 48})
    exif.get_ifd(IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    return exif.tobytes()


@functools.cache  # It holds the time of its creation.
def profile():
    """sRGB with red and green swapped."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    entries = range(132, 132 + 12 * int.from_bytes(made[128:132], "big"), 12)
    red, green = (next(at for at in entries if made[at : at + 4] == name) for name in (b"rXYZ", b"gXYZ"))
    made[red + 4 : red + 8], made[green + 4 : green + 8] = made[green + 4 : green + 8], made[red + 4 : red + 8]
    return bytes(made)


def repainted(source, target, size=2048):
    """Write the photo as its own result."""
    photo = read(source, target, size)
    return photo.write(Image.fromarray(np.asarray(photo.image)), target), Image.open(target)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_is_kept_for_an_upright_picture(tmp_path, suffix):
    picture().save(tmp_path / f"a.{suffix}", exif=described())
    lacks, result = repainted(tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}", size=24)
    exif = result.getexif()
    assert lacks == ()
    assert result.size == (16, 24)
    assert exif[Base.Orientation] == 1
    assert (exif[Base.Make], exif[Base.DateTime]) == ("Maker", "2020:01:02 03:04:05")
    details = exif.get_ifd(IFD.Exif)
    assert details[Base.DateTimeOriginal] == "2019:01:02 03:04:05"
    assert details[Base.ExifImageWidth] == 16
    assert exif.get_ifd(IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"


PACKET = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d dc:title="\xc3\xa9"%s/></x:xmpmeta>'


def save_described(path):
    exif, xmp = described(), PACKET % b' tiff:Orientation="6"'
    options = {"xmp": xmp}
    if path.suffix == ".png":
        options = {"pnginfo": PngImagePlugin.PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    if path.suffix == ".tif":
        exif = Image.Exif()
        exif.load(described())
        options = {"tiffinfo": {**exif, Base.XMLPacket: xmp}}
    picture().save(path, **({"exif": exif} | options))


@pytest.mark.parametrize("before", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("after", ["jpg", "png", "webp", "tif"])
def test_xmp_is_kept_without_the_orientation(tmp_path, before, after):
    save_described(tmp_path / f"a.{before}")
    lacks, result = repainted(tmp_path / f"a.{before}", tmp_path / f"b.{after}")
    assert lacks == ()
    assert result.info["xmp"].replace(b"  ", b" ").replace(b" /", b"/") == PACKET % b""
    assert result.getexif()[Base.Make] == "Maker"
    assert result.getexif()[Base.Orientation] == 1


def test_xmp_and_iptc_that_cannot_be_kept_are_said(tmp_path):
    save_described(tmp_path / "a.jpg")
    assert repainted(tmp_path / "a.jpg", tmp_path / "b.bmp")[0] == (EXIF, XMP)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "long" * 20_000)
    picture().save(tmp_path / "long.png", pnginfo=info)
    assert repainted(tmp_path / "long.png", tmp_path / "b.jpg")[0] == (XMP,)
    iptc = b"\x1c\x02\x78\x00\x05Title"
    picture().save(tmp_path / "iptc.tif", tiffinfo={33723: iptc})
    assert repainted(tmp_path / "iptc.tif", tmp_path / "b.tif")[0] == (IPTC,)
    resource = b"Photoshop 3.0\x008BIM\x04\x04\x00\x00" + len(iptc).to_bytes(4, "big") + iptc
    picture().save(tmp_path / "c.jpg", extra=b"\xff\xed" + (len(resource) + 2).to_bytes(2, "big") + resource)
    assert repainted(tmp_path / "c.jpg", tmp_path / "b.jpg")[0] == (IPTC,)


def test_how_a_tiff_file_holds_its_picture_is_not_kept(tmp_path):
    picture().save(tmp_path / "a.tif", compression="tiff_lzw", description="A gradient.")
    _, result = repainted(tmp_path / "a.tif", tmp_path / "b.tif", size=24)
    assert result.size == (24, 16)
    assert result.getexif()[Base.ImageDescription] == "A gradient."
    assert np.abs(np.asarray(result).astype(int) - np.asarray(picture().resize((24, 16)))).mean() < 3


def test_without_exif_none_is_made_up(tmp_path):
    picture().save(tmp_path / "a.jpg")
    assert not repainted(tmp_path / "a.jpg", tmp_path / "b.jpg")[1].getexif()


def test_exif_that_cannot_be_kept_is_said(tmp_path):
    exif = Image.Exif()
    exif[Base.ImageDescription] = "long" * 20_000
    picture().save(tmp_path / "large.png", exif=exif)
    assert repainted(tmp_path / "large.png", tmp_path / "b.jpg")[0] == (EXIF,)
    assert repainted(tmp_path / "large.png", tmp_path / "b.png")[0] == ()
    picture().save(tmp_path / "a.png", exif=described())
    assert repainted(tmp_path / "a.png", tmp_path / "b.bmp")[0] == (EXIF,)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_color_profiles_are_kept_and_mean_the_same_colors(tmp_path, suffix):
    picture().save(tmp_path / f"a.{suffix}", icc_profile=profile(), quality=100)
    lacks, result = repainted(tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}")
    assert lacks == ()
    assert result.info["icc_profile"] == profile()
    before, after = (np.asarray(load_image(tmp_path / f"{name}.{suffix}")).astype(int) for name in "ab")
    assert np.abs(before - after).mean() < 2


def test_a_color_profile_that_cannot_be_kept_is_said(tmp_path):
    picture().save(tmp_path / "broken.png", icc_profile=b"not a profile")
    assert repainted(tmp_path / "broken.png", tmp_path / "b.png")[0] == (PROFILE,)
    gray = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    picture().convert("L").save(tmp_path / "gray.png", icc_profile=gray)
    assert repainted(tmp_path / "gray.png", tmp_path / "b.png")[0] == (PROFILE,)
    picture().save(tmp_path / "a.png", icc_profile=profile())
    assert repainted(tmp_path / "a.png", tmp_path / "b.bmp")[0] == (PROFILE,)


@pytest.mark.parametrize(("before", "after"), [("png", "png"), ("webp", "webp"), ("tif", "tif"), ("gif", "png")])
def test_transparency_is_kept(tmp_path, before, after):
    """With the photo's own colors where something of it is seen, and white elsewhere."""
    image = picture()
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 24, 32))
    if before != "gif":
        alpha.paste(128, (24, 0, 48, 16))
    image.putalpha(alpha)
    image.save(tmp_path / f"a.{before}", **({"lossless": True, "exact": True} if before == "webp" else {}))
    lacks, result = repainted(tmp_path / f"a.{before}", tmp_path / f"b.{after}")
    assert lacks == ()
    assert result.mode == "RGBA"
    assert np.array_equal(np.asarray(result)[..., 3], np.asarray(alpha))
    seen = np.asarray(alpha) > 0
    if before in ("png", "tif"):
        assert np.array_equal(np.asarray(result)[seen, :3], np.asarray(image)[seen, :3])
    assert (np.asarray(read(tmp_path / f"a.{before}", Path("b.png"), 48).image)[~seen] == 255).all()


def test_transparency_is_scaled_with_the_picture(tmp_path):
    image = picture()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(tmp_path / "a.png")
    result = repainted(tmp_path / "a.png", tmp_path / "b.png", size=12)[1]
    assert result.size == (12, 8)
    assert np.abs(np.asarray(result)[:, 5, 3].astype(int) - np.arange(16, 256, 32)).max() < 6


def test_transparency_that_cannot_be_kept_lets_white_through(tmp_path):
    Image.new("RGBA", (8, 8), (255, 0, 0, 51)).save(tmp_path / "a.png")
    lacks, result = repainted(tmp_path / "a.png", tmp_path / "b.bmp")
    assert lacks == (TRANSPARENCY,)
    assert result.getpixel((4, 4)) == (255, 204, 204)
    Image.new("RGBA", (8, 8), "red").save(tmp_path / "opaque.png")
    assert repainted(tmp_path / "opaque.png", tmp_path / "b.bmp")[0] == ()


@pytest.mark.parametrize(("name", "kind"), [("a.gif", "GIF"), ("a.png", "PNG"), ("a.jpg", "MPO"), ("a.tif", "TIFF")])
def test_further_frames_are_said(tmp_path, name, kind):
    picture().save(tmp_path / name, kind, save_all=True, append_images=[picture().rotate(180)])
    assert repainted(tmp_path / name, (tmp_path / "b").with_suffix(".png"))[0] == (FRAMES,)


def test_jpeg_keeps_the_color_of_every_pixel(tmp_path):
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2, 0], stripes[:, 1::2, 2] = 255, 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    result = repainted(tmp_path / "a.png", tmp_path / "b.jpg")[1]
    assert [sampling[1:3] for sampling in result.layer] == [(1, 1)] * 3
    assert np.abs(np.asarray(result).astype(int) - stripes).mean() < 8


MEASURE = """
import re, sys
from pathlib import Path
from stylizing.photo import read
print(read(Path(sys.argv[1]), Path("b.jpg"), 2048).image.size)
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of the memory is read from Linux")
def test_a_hundred_megapixels_take_less_than_a_gigabyte(tmp_path):
    Image.new("RGB", (12000, 9000), "teal").save(tmp_path / "a.jpg")
    command = [sys.executable, "-c", MEASURE, tmp_path / "a.jpg"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)
    size, memory = done.stdout.splitlines()
    assert size == "(2048, 1536)"
    assert done.stderr == ""
    assert int(memory) < 2**20


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff"])
def test_the_resolution_is_kept(tmp_path, suffix):
    for exif in (None, described()):
        source, target = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
        Image.new("RGB", (20, 10)).save(source, dpi=(300, 150), **({"exif": exif} if exif else {}))
        photo = read(source, target)
        photo.write(photo.image, target)
        assert [round(float(each)) for each in Image.open(target).info["dpi"]] == [300, 150]


@pytest.mark.parametrize(("mode", "fine"), [("I;16", True), ("L", False), ("RGB", False), ("1", False)])
def test_tones_that_are_lost_are_said(tmp_path, mode, fine):
    Image.new(mode, (8, 8)).save(tmp_path / "a.png")
    assert (TONES in read(tmp_path / "a.png", tmp_path / "b.png").lacks) == fine


def test_tones_of_colors_that_are_lost_are_said(tmp_path):
    data = b"".join(b"\0" + bytes(range(48)) for _ in range(8))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    assert read(tmp_path / "a.png", tmp_path / "b.png").lacks == (TONES,)

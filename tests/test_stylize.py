import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from processes import ended, start
from torchvision.transforms.v2.functional import to_dtype, to_pil_image

from data.images import load_image
from lightning_modules.gan import GAN
from lightning_modules.style_transfer import StyleTransfer
from stylizing import command
from stylizing.command import main
from stylizing.painting import LUMA, paint, with_colors_of
from training.run import Run

ROOT = Path(__file__).parents[1]


def save_run(module, folder):
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=folder)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    model = StyleTransfer(style="night", style_size=64, widths=[4, 8], num_blocks=1, photo_size=16)
    model.setup("fit")
    return save_run(model, tmp_path_factory.mktemp("style") / "version_0")


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A network of two styles, which differ."""
    torch.manual_seed(0)
    model = StyleTransfer(styles=["night", "waves"], style_size=64, widths=[4, 8], num_blocks=1, photo_size=20)
    model.setup("fit")
    with torch.no_grad():
        for name, parameter in model.transformer.named_parameters():
            if "norm" in name and parameter.ndim == 2:
                parameter.copy_(torch.rand_like(parameter) * 2 - 0.5)
        model.transformer.last.weight.mul_(5)
    return save_run(model, tmp_path_factory.mktemp("styles") / "version_0")


@pytest.fixture
def photos(tmp_path):
    """A folder with three photos, one of them deeper, and two files that are none."""
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    save_photo(folder / "one.png", 20, 13)
    save_photo(folder / "two.JPG", 17, 30)
    save_photo(folder / "deeper" / "one.png", 8, 8)
    (folder / "notes.txt").write_text("not an image")
    return folder


def save_photo(path, width, height):
    generator = torch.Generator().manual_seed(width)
    small = torch.rand(3, 3, 4, generator=generator)
    photo = torch.nn.functional.interpolate(small[None], (height, width), mode="bicubic").clamp(0, 1)[0]
    to_pil_image(to_dtype(photo, torch.uint8, scale=True)).save(path, quality=95)
    return path


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def call(*arguments):
    return main([str(argument) for argument in arguments])


def fails(capsys, *arguments):
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("error: ")
    return err


def test_photos_and_folders_keep_their_names(run, photos, tmp_path, capsys):
    single = save_photo(tmp_path / "single.png", 9, 11)
    out = tmp_path / "new" / "out"
    assert call(run, single, photos, "-o", out) == 0
    assert capsys.readouterr().out == f"wrote 4 images to {out}\n"
    assert files(out) == ["deeper/one.png", "one.png", "single.png", "two.JPG"]
    model = Run.find(run).load(StyleTransfer)
    for name, source in (("single.png", single), ("one.png", photos / "one.png")):
        assert (pixels(out / name) == np.asarray(paint(model, load_image(source)))).all()
    assert Image.open(out / "two.JPG").format == "JPEG"
    assert Image.open(out / "two.JPG").size == (17, 30)


def test_a_checkpoint_file_is_a_run_too(run, photos, tmp_path):
    call(run, photos, "-o", tmp_path / "a")
    call(run / "checkpoints" / "last.ckpt", photos, "-o", tmp_path / "b")
    assert (pixels(tmp_path / "a" / "one.png") == pixels(tmp_path / "b" / "one.png")).all()


def test_photos_of_other_kinds_become_png(run, tmp_path):
    photo = save_photo(tmp_path / "one.ppm", 8, 8)
    assert call(run, photo, "-o", tmp_path / "out") == 0
    assert files(tmp_path / "out") == ["one.png"]


def test_results_are_never_replaced_unless_asked(run, photos, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "one.png").write_text("mine")
    assert call(run, photos, "-o", out) == 0
    assert (out / "one.png").read_text() == "mine"
    assert capsys.readouterr().out.splitlines() == [
        f"wrote 2 images to {out}",
        "left 1 existing image as they are (--overwrite to replace them)",
    ]
    assert call(run, photos, "-o", out, "--overwrite") == 0
    assert pixels(out / "one.png").shape == (13, 20, 3)
    assert capsys.readouterr().out == f"wrote 3 images to {out}\n"


def test_results_within_the_folder_of_the_photos_are_not_stylized_again(run, photos):
    out = photos / "stylized"
    for _ in range(2):
        assert call(run, photos, "-o", out, "--overwrite") == 0
        assert files(out) == ["deeper/one.png", "one.png", "two.JPG"]


def test_photos_may_lie_within_the_folder_of_the_results(run, photos):
    assert call(run, photos, "-o", photos.parent) == 0
    assert (photos.parent / "deeper" / "one.png").is_file()


def test_size_scales_larger_photos_down_and_no_photo_up(run, photos, tmp_path, capsys):
    assert call(run, photos, "-o", tmp_path / "out", "--size", 15) == 0
    sizes = [Image.open(tmp_path / "out" / name).size for name in ("one.png", "two.JPG", "deeper/one.png")]
    assert sizes == [(15, 10), (8, 15), (8, 8)]
    assert "scaled 2 larger images down to 15 pixels (--size)" in capsys.readouterr().out


def test_results_are_as_large_as_the_photos(run, tmp_path, capsys):
    photo = save_photo(tmp_path / "long.png", 3000, 4)
    assert call(run, photo, "-o", tmp_path / "out") == 0
    assert Image.open(tmp_path / "out" / "long.png").size == (3000, 4)
    assert "scaled" not in capsys.readouterr().out


def test_orientation_is_applied_once(run, tmp_path):
    photo, exif = Image.new("RGB", (20, 10), "red"), Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "turned.jpg", exif=exif)
    assert call(run, tmp_path / "turned.jpg", "-o", tmp_path / "out") == 0
    result = Image.open(tmp_path / "out" / "turned.jpg")
    assert result.size == (10, 20)
    assert result.getexif()[0x0112] == 1


def test_strength(run, photos, tmp_path):
    for strength in ("0", "0.5", "1"):
        assert call(run, photos / "one.png", "-o", tmp_path / strength, "--strength", strength) == 0
    photo, middle, full = (pixels(tmp_path / strength / "one.png") for strength in ("0", "0.5", "1"))
    assert (photo == pixels(photos / "one.png")).all()
    assert abs(middle - (photo + full) / 2).max() <= 1
    assert abs(full - photo).max() > 20


def test_colors_of_the_photo(run, photos, tmp_path):
    assert call(run, photos / "one.png", "-o", tmp_path / "plain") == 0
    assert call(run, photos / "one.png", "-o", tmp_path / "kept", "--colors", "luma") == 0
    paths = (photos / "one.png", tmp_path / "plain" / "one.png", tmp_path / "kept" / "one.png")
    photo, plain, kept = (np.asarray(Image.open(path).convert("YCbCr")).astype(int) for path in paths)
    free = ((pixels(paths[2]) > 0) & (pixels(paths[2]) < 255)).all(axis=2)
    assert free.mean() > 0.5
    assert abs(kept - plain)[free][:, 0].max() <= 2
    assert abs(kept - photo)[free][:, 1:].max() <= 2
    assert abs(plain - photo)[..., 1:].max() > 10


def test_regions_have_styles_of_their_own(several, photos, tmp_path, capsys):
    mask = Image.new("L", (20, 13))
    mask.paste(255, (0, 0, 10, 13))
    mask.save(tmp_path / "left=half.png")
    for name in ("waves", "night"):
        assert call(several, photos / "one.png", "-o", tmp_path / name, "--style", name) == 0
    regions = ["--style", "waves", "--mask", f"{tmp_path}/left=half.png=night"]
    capsys.readouterr()
    assert call(several, photos, "-o", tmp_path / "out", *regions) == 0
    result, waves, night = (pixels(tmp_path / name / "one.png") for name in ("out", "waves", "night"))
    assert abs(waves - night)[:, 17:].max() > 5
    assert abs(result - waves)[:, 17:].max() <= 2
    assert abs(result - night)[:, :3].max() <= 2
    out, err = capsys.readouterr()
    assert out == f"wrote 1 image to {tmp_path / 'out'}\n"
    assert (
        f"skipped {photos / 'two.JPG'}: the mask {tmp_path}/left=half.png has 20x13 pixels, and the photo 17x30" in err
    )
    assert err.count("\n") == 2


def test_a_sweep_leads_from_one_style_to_another(several, photos, tmp_path, capsys):
    sweep = ["--sweep", 3, "--style", "night", "--style", "waves"]
    assert call(several, photos, "-o", tmp_path / "out", *sweep) == 0
    assert capsys.readouterr().out == f"wrote 9 images to {tmp_path / 'out'}\n"
    assert files(tmp_path / "out")[:3] == ["deeper/one-1.png", "deeper/one-2.png", "deeper/one-3.png"]
    for number, styles in enumerate((["night"], ["night=0.5", "waves=0.5"], ["waves"]), start=1):
        options = [option for style in styles for option in ("--style", style)]
        assert call(several, photos / "one.png", "-o", tmp_path / str(number), *options) == 0
        expected = pixels(tmp_path / str(number) / "one.png")
        assert (pixels(tmp_path / "out" / f"one-{number}.png") == expected).all()
    (photos / "broken.png").write_text("not an image")
    capsys.readouterr()
    assert call(several, photos, "-o", tmp_path / "out", *sweep) == 0
    out, err = capsys.readouterr()
    assert "left 9 existing images as they are" in out
    assert err.count("broken.png") == 1


def test_a_sweep_never_replaces_a_photo(several, photos, tmp_path, capsys):
    save_photo(tmp_path / "one-2.png", 8, 8)
    sweep = ["--sweep", 3, "--style", "night", "--style", "waves"]
    err = fails(capsys, several, photos / "one.png", tmp_path / "one-2.png", "-o", tmp_path, *sweep)
    assert f"a result would replace the photo {tmp_path / 'one-2.png'}" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mask", "one.png=wave"], "--mask: unknown style 'wave', did you mean 'waves'? (known: night, waves)"),
        (["--mask", "one.png"], "--mask one.png: expected a picture and a style, as in --mask sky.png=NAME"),
        (["--mask", "nonesuch.png=waves"], "--mask: nonesuch.png: no such file"),
        (["--mask", "notes.txt=waves"], "--mask: notes.txt: not an image in a format that Pillow knows"),
        (["--sweep", "3", "--style", "waves"], "--sweep leads from one style to another: give two, as in --style NAME"),
        (["--sweep", "1"], "sweep: must be at least 2 and at most 1000, got 1"),
        (["--colors", "lume"], "colors: expected one of painted, luma, histogram, covariance, got lume, did you mean"),
        (["--size", "1e2"], "size: expected int, got '1e2'"),
    ],
)
def test_impossible_ways_to_paint(options, message, several, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(photos)
    err = fails(capsys, several, "one.png", "-o", tmp_path / "out", *options)
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the most memory that was held")
def test_12000x9000_pixels_take_less_than_2_gib(run, tmp_path):
    Image.effect_noise((120, 90), 80).resize((12000, 9000)).convert("RGB").save(tmp_path / "large.jpg")
    options = [run, tmp_path / "large.jpg", "-o", tmp_path / "out", "--max-pixels", 12000 * 9000]
    code = (
        "import sys; from stylizing.command import main; assert main(sys.argv[1:]) == 0; "
        "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    )
    command = [sys.executable, "-c", code, *map(str, options)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert Image.open(tmp_path / "out" / "large.jpg").size == (12000, 9000)
    assert int(result.stdout.split()[-1]) < 2 * 2**20


@given(st.tuples(*[st.floats(0.25, 0.75)] * 3), st.floats(-0.25, 0.25))
def test_more_brightness_keeps_colors(color, more):
    photo = torch.tensor(color)[:, None, None].expand(3, 2, 2)
    torch.testing.assert_close(with_colors_of(photo, photo + more), photo + more)
    luma = torch.tensor(LUMA)[:, None, None]
    stylized = torch.tensor([0.5, 0.4, 0.6])[:, None, None].expand(3, 2, 2)
    result = with_colors_of(photo, stylized)
    torch.testing.assert_close((luma * result).sum(0), (luma * stylized).sum(0))


def test_damaged_photos_are_skipped_and_listed(run, photos, tmp_path, capsys):
    (photos / "broken.png").write_bytes((photos / "one.png").read_bytes()[:60])
    (photos / "text.jpg").write_text("not an image")
    assert call(run, photos, photos / "notes.txt", "-o", tmp_path / "out") == 0
    out, err = capsys.readouterr()
    assert out == f"wrote 3 images to {tmp_path / 'out'}\n"
    lines = err.splitlines()
    assert len(lines) == 3
    for name in ("broken.png", "text.jpg", "notes.txt"):
        assert sum(line.startswith(f"skipped {photos / name}: ") for line in lines) == 1
    assert files(tmp_path / "out") == ["deeper/one.png", "one.png", "two.JPG"]


def test_photos_beyond_the_memory_are_skipped(run, photos, tmp_path, capsys, monkeypatch):
    def forward(self, image, style):
        if image.shape[-1] == 9:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return image

    monkeypatch.setattr(StyleTransfer, "forward", forward)
    assert call(run, photos, "-o", tmp_path / "out") == 0
    assert capsys.readouterr().err == (
        f"skipped {photos / 'two.JPG'}: too large for the memory at 17x30, try --size or a larger --stroke-size\n"
    )


def test_defects_are_not_hidden(run, photos, tmp_path, monkeypatch):
    def forward(self, image, style):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(StyleTransfer, "forward", forward)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        call(run, photos, "-o", tmp_path / "out")


def test_an_interrupted_write_leaves_no_result(run, photos, tmp_path, monkeypatch, capsys):
    def save(self, path, *arguments, **options):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", save)
    assert call(run, photos / "one.png", "-o", tmp_path / "out") == 130
    assert capsys.readouterr() == ("", "interrupted\n")
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize("damage", ["", "text.jpg"])
def test_no_images(run, tmp_path, capsys, damage):
    folder = tmp_path / "photos"
    folder.mkdir()
    if damage:
        (folder / damage).write_text("not an image")
    err = fails(capsys, run, folder, "-o", tmp_path / "out")
    assert ("none of the photos could be stylized (1)" if damage else f"no images found in {folder}") in err


def test_no_such_photo(run, tmp_path, capsys):
    err = fails(capsys, run, tmp_path / "nonesuch.jpg", "-o", tmp_path / "out")
    assert err == f"error: no such photo or folder: {tmp_path / 'nonesuch.jpg'}\n"
    assert not (tmp_path / "out").exists()


def test_no_such_run(photos, tmp_path, capsys):
    err = fails(capsys, tmp_path / "nonesuch", photos, "-o", tmp_path / "out")
    assert err == f"error: no such run folder or checkpoint: {tmp_path / 'nonesuch'}\n"
    assert not (tmp_path / "out").exists()


def test_checkpoints_of_something_else(photos, tmp_path, capsys):
    gan = save_run(GAN(architecture="resnet16", channels=1, latent_dim=8), tmp_path / "gan")
    err = fails(capsys, gan, photos, "-o", tmp_path / "out")
    assert "is a checkpoint of GAN, not of AnyStyle or StyleTransfer" in err
    err = fails(capsys, photos / "one.png", photos, "-o", tmp_path / "out")
    assert f"{photos / 'one.png'} is not a readable checkpoint" in err
    assert not (tmp_path / "out").exists()


def test_unwritable_output(run, photos, tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.write_text("a file")
    assert f"cannot write to {taken}: " in fails(capsys, run, photos, "-o", taken)
    assert f"cannot write to {taken / 'out'}: " in fails(capsys, run, photos, "-o", taken / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "deeper").write_text("a file")
    assert "deeper/one.png: " in fails(capsys, run, photos, "-o", tmp_path / "out")
    assert taken.read_text() == "a file"


def test_output_without_permission(run, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    assert fails(capsys, run, photos, "-o", tmp_path) == f"error: cannot write to {tmp_path}: no permission\n"


def test_a_photo_is_never_replaced_by_its_result(run, photos, tmp_path, capsys):
    before = (photos / "one.png").read_bytes()
    err = fails(capsys, run, photos / "one.png", "-o", photos, "--overwrite")
    assert err == f"error: a result would replace the photo {photos / 'one.png'}: name another folder with -o\n"
    other = save_photo(tmp_path / "two.JPG", 5, 5)
    assert "would replace the photo" in fails(capsys, run, other, photos, "-o", photos, "--overwrite")
    (tmp_path / "link").symlink_to(photos)
    fails(capsys, run, photos / "one.png", "-o", tmp_path / "link", "--overwrite")
    assert (photos / "one.png").read_bytes() == before


def test_results_of_the_same_name(run, photos, tmp_path, capsys):
    first, second = photos / "one.png", photos / "deeper" / "one.png"
    err = fails(capsys, run, first, second, "-o", tmp_path / "out")
    assert (
        err
        == f"error: {first} and {second} would both become {tmp_path / 'out' / 'one.png'}: stylize them separately\n"
    )
    assert call(run, first, photos / "." / "one.png", "-o", tmp_path / "out") == 0
    assert capsys.readouterr().out == f"wrote 1 image to {tmp_path / 'out'}\n"


def test_photos_that_become_png_take_no_name_of_others(run, tmp_path, capsys):
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for name in ("a.gif", "a.png", "a.ppm", "b.gif", "b.gif.png", "c", "c.png"):
        save_photo(folder / name, 8, 8) if "." in name else Image.new("RGB", (8, 8)).save(folder / name, "PNG")
    Image.new("RGB", (8, 8)).save(folder / "b.png")
    assert call(run, folder, "-o", out) == 0
    assert files(out) == [
        "a.gif.png", "a.png", "a.ppm.png", "b.gif.png", "b.gif.png.png", "b.png", "c.png", "c.png.png"
    ]  # fmt: skip
    (tmp_path / "more").mkdir()
    save_photo(tmp_path / "more" / "a.gif", 8, 8)
    capsys.readouterr()
    assert "would both become" in fails(capsys, run, folder / "a.gif", tmp_path / "more" / "a.gif", "-o", out)


@pytest.mark.timeout(60)
def test_whatever_lies_in_a_folder_is_stylized_or_named(run, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    unusual = os.fsdecode(b"caf\xe9.png")
    save_photo(folder / unusual, 8, 8)
    os.mkfifo(folder / "pipe.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    Image.fromarray(np.full((8, 8), 200, np.int32)).save(folder / "science.tif")
    assert call(run, folder, folder / "loop.png", "-o", tmp_path / "out") == 0
    lines = capsys.readouterr().err.splitlines()
    expected = {"loop.png: Too many", "phone.heic: a ", "pipe.png: a named pipe", "science.tif: floating-point and 32"}
    assert len(lines) == len(expected)
    assert all(any(f"skipped {folder}/{reason}" in line for line in lines) for reason in expected)
    assert [os.fsencode(name) for name in files(tmp_path / "out")] == [b"caf\xe9.png"]


def test_folders_need_not_be_text(run, photos, tmp_path, capsys):
    out = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    assert call(run, photos, "-o", out) == 0
    assert "wrote 3 images" in capsys.readouterr().out


def test_what_is_left_out_is_said(run, tmp_path, capsys):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "green", "blue")]
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (8, 8), (255, 0, 0, 100)).save(tmp_path / "clear.jpg", "PNG")
    assert call(run, tmp_path / "pages.tif", tmp_path / "clear.jpg", "-o", tmp_path / "out") == 0
    assert set(capsys.readouterr().out.splitlines()[1:]) == {
        f"left out further frames of 1 image: {tmp_path / 'pages.tif'}",
        f"left out transparency of 1 image: {tmp_path / 'clear.jpg'}",
    }


def test_max_pixels(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    Image.new("RGB", (400, 300)).save(tmp_path / "large.jpg")
    Image.new("RGB", (400, 300)).save(tmp_path / "large.png")
    command = (run, tmp_path / "large.jpg", tmp_path / "large.png", "-o", tmp_path / "out", "--size", 50)
    assert call(*command) == 0
    out, err = capsys.readouterr()
    assert "wrote 1 image " in out
    assert err == f"skipped {tmp_path / 'large.png'}: 400x300 pixels are more than max_pixels allows, 10000\n"
    assert call(*command, "--overwrite", "--max-pixels", 120_000) == 0
    assert "wrote 2 images " in capsys.readouterr().out
    assert Image.open(tmp_path / "out" / "large.jpg").size == (50, 38)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--size", "0"], "size: must be above 0, got 0"),
        (["--size", "2.5"], "size: expected int, got '2.5'"),
        (["--strength", "1.5"], "strength: must be at least 0 and at most 1, got 1.5"),
        (["--strength", "nan"], "strength: must be at least 0 and at most 1, got nan"),
        (["--strength", "much"], "strength: expected float, got 'much'"),
        (["--device", "toaster"], "--device: cannot use device 'toaster': "),
        (["--stren", "1"], "unknown option 'stren', did you mean 'strength'?"),
    ],
)
def test_impossible_options(run, photos, tmp_path, capsys, option, message):
    err = fails(capsys, run, photos, "-o", tmp_path / "out", *option)
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_page_needs_gradio_and_no_photos(run, tmp_path, capsys, monkeypatch):
    leave_out = "error: --serve: photos are chosen in the page, so leave out FILE and -o\n"
    assert fails(capsys, run, tmp_path, "--serve") == leave_out
    assert fails(capsys, run, "--serve", "-o", tmp_path) == leave_out
    assert "port: must be at least 0 and at most 65535" in fails(capsys, run, "--serve", "--port", 70000)
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert fails(capsys, run, "--serve") == "error: --serve needs Gradio: pip install 'normlab[web]'\n"
    assert fails(capsys, run, "-o", tmp_path) == "error: no inputs given: see --help\n"
    assert fails(capsys, run) == "error: no inputs and no output given: see --help\n"


@pytest.mark.slow
def test_as_a_command(run, photos, tmp_path):
    options = [photos, "-o", tmp_path / "out", "--device", "cpu"]
    log = tmp_path / "log.txt"
    assert ended(start("stylize.py", run, *options, log=log)) == 0
    assert log.read_text() == f"wrote 3 images to {tmp_path / 'out'}\n"
    assert ended(start("stylize.py", tmp_path / "nonesuch", *options, log=log)) == 2
    assert log.read_text() == f"error: no such run folder or checkpoint: {tmp_path / 'nonesuch'}\n"


def test_no_module_is_imported_because_a_checkpoint_names_it(run, photos, tmp_path, capsys, monkeypatch):
    (tmp_path / "trap.py").write_text("from pathlib import Path\nPath(__file__).with_name('trace').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    state = torch.load(Run.find(run).checkpoint, weights_only=True)
    state["hyper_parameters"]["norm"] = "trap.Thing"
    torch.save(state, tmp_path / "model.ckpt")
    message = fails(capsys, tmp_path / "model.ckpt", photos, "-o", tmp_path / "out")
    assert "trap is not trusted (to trust it: --trust trap)" in message
    assert not (tmp_path / "trace").exists()


def test_folders_that_cannot_be_looked_into_are_named(run, photos, tmp_path, capsys, close_folders):
    close_folders("deeper")
    assert call(run, photos, "-o", tmp_path / "out") == 0
    out, err = capsys.readouterr()
    assert "wrote 2 images" in out
    assert err.startswith(f"skipped {photos / 'deeper'}: ")
    assert f"skipped {photos / 'deeper'}: " in fails(capsys, run, photos / "deeper", "-o", tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["", "-o", "out"], "expected a path, got an empty text"),
        (["photo.png", "-o", ""], "expected a path, got an empty text"),
        (["photo.png", "-o", "out", "--device", "meta"], "--device: cannot use device 'meta': "),
    ],
)
def test_senseless_arguments_are_refused(arguments, message, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_photo(Path("photo.png"), 20, 13)
    assert message in fails(capsys, run, *arguments)
    assert files(tmp_path) == ["photo.png"]

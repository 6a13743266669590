import os
import socket
from pathlib import Path

import pytest
from PIL import Image

from data.files import Paths, check_file, find_images, listed
from data.photos import ImageFolder
from norms.errors import SettingError


def named_pipe(path):
    os.mkfifo(path)
    return path


def bound_socket(path):
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(path))  # whose path must be short
    return path


@pytest.mark.parametrize(
    ("make", "kind"),
    [(named_pipe, r"a named pipe \(FIFO\)"), (bound_socket, "a socket"), (lambda _: "/dev/zero", "a device")],
)
def test_what_is_no_file_is_refused(tmp_path, monkeypatch, make, kind):
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path / "x.png")
    link = tmp_path / "link.png"
    link.symlink_to(path)
    for each in (path, link, str(link)):
        with pytest.raises(SettingError, match=f"^{each}: {kind}, not a file$"):
            check_file(each)


def test_everything_else_is_left_to_who_opens_it(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "file", tmp_path, tmp_path / "none", tmp_path / "loop", "nul\0", "x" * 5000, ""):
        check_file(path)


def test_pipes_of_the_shell_are_taken():
    """As the file name that bash puts in the place of <(command)."""
    read, write = os.pipe()
    try:
        check_file(f"/dev/fd/{read}")
    finally:
        os.close(read)
        os.close(write)


def test_find_images(tmp_path):
    names = ["b.png", "a.JPG", "deep/er/c.webp", "deep/d.tif", "Z.bmp"]
    for name in [*names, "notes.txt", "._a.jpg", ".cache/e.png", "figure.eps", "paper.pdf", "clip.mpg", "noending"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert find_images(tmp_path) == sorted(tmp_path / name for name in names)
    assert find_images(str(tmp_path / "deep")) == [tmp_path / "deep/d.tif", tmp_path / "deep/er/c.webp"]
    assert find_images(tmp_path / ".cache") == [tmp_path / ".cache/e.png"]


def test_links_are_followed_once(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.png").touch()
    os.symlink(tmp_path / "elsewhere", tmp_path / "photos/linked")
    os.symlink(tmp_path / "photos", tmp_path / "photos/loop")
    assert find_images(tmp_path / "photos") == [tmp_path / "photos/linked/a.png"]


@pytest.mark.parametrize(("name", "reason"), [("none", "no such folder"), ("file.png", "not a folder")])
def test_missing_folder(tmp_path, name, reason):
    (tmp_path / "file.png").touch()
    with pytest.raises(SettingError, match=f"{name}: {reason}"):
        find_images(tmp_path / name)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_images_without_extension_are_known_by_their_beginning(tmp_path, kind):
    Image.new("RGB", (8, 8)).save(tmp_path / "picture", kind)
    (tmp_path / "LICENSE").write_text("All rights reserved.")
    (tmp_path / "empty").touch()
    assert find_images(tmp_path) == [tmp_path / "picture"]


def test_folders_that_cannot_be_looked_into_are_named(tmp_path, close_folders):
    for name in ("open/a.png", "closed/b.png", "open/closed/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    close_folders("closed")
    assert find_images(tmp_path) == [tmp_path / name for name in ("closed", "open/a.png", "open/closed")]
    assert find_images(tmp_path / "closed") == [tmp_path / "closed"]
    with pytest.warns(match=f"2 of 3 files left out: {tmp_path / 'closed'}: .*; {tmp_path / 'open/closed'}: "):
        train, _ = ImageFolder(str(tmp_path), str(tmp_path), image_size=32).load()
    assert list(train.paths) == [tmp_path / "open/a.png"]


def test_images_of_two_views_are_found(tmp_path):
    view = Image.new("RGB", (8, 8))
    view.save(tmp_path / "a.mpo", "MPO", save_all=True, append_images=[view])
    assert find_images(tmp_path) == [tmp_path / "a.mpo"]


def test_photos_that_cannot_be_decoded_are_found_too(tmp_path):
    names = ["a.heic", "b.HEIF", "c.jxl", "d.dng", "e.CR3", "f.avif"]
    for name in [*names, "g.xmp", "h.mov"]:
        (tmp_path / name).touch()
    assert find_images(tmp_path) == [tmp_path / name for name in names]


@pytest.mark.timeout(30)
def test_nothing_is_opened_that_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    assert find_images(tmp_path) == [tmp_path / name for name in ("a.png", "b.png", "pipe.png")]


def test_names_need_not_be_text(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    path.touch()
    assert find_images(tmp_path) == [path]


def test_listed():
    assert listed([Path("a"), 2, "c"]) == "a; 2; c"
    assert listed(range(5)) == "0; 1; 2; and 2 more"


def test_paths_are_those_of_the_names(tmp_path):
    names = ["a.png", "b/c.png", "é/ü.png", os.fsdecode(b"\xff.png")]
    paths = Paths(tmp_path, names)
    assert list(paths) == [tmp_path / name for name in names]
    assert len(paths) == 4
    assert len(Paths(tmp_path, [])) == 0

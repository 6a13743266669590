import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data
from data.styles import find_styles, name_of, names, open_style, scaled_style
from norms.errors import SettingError
from tools.draw_styles import SIZE, STYLES, draw, main

FILES = sorted((Path(data.__file__).parent / "styles").glob("*.png"))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(float)


def test_each_drawn_style_is_bundled():
    assert names() == sorted(STYLES)
    assert len(names()) >= 4


def test_files_are_small():
    assert all(path.stat().st_size < 500_000 for path in FILES)
    assert sum(path.stat().st_size for path in FILES) < 1_600_000


@pytest.mark.parametrize("name", names())
def test_bundled_styles_open(name):
    image = open_style(name)
    assert image.mode == "RGB"
    assert image.size == (SIZE, SIZE)


@pytest.mark.parametrize("name", names())
def test_styles_have_color_and_texture_everywhere(name):
    """Every eighth of the picture has edges, and the whole has strong and varied color."""
    values = pixels(open_style(name))
    steps = np.abs(np.diff(values.mean(axis=2), axis=1))
    blocks = [block for rows in np.array_split(steps, 8, axis=0) for block in np.array_split(rows, 8, axis=1)]
    assert np.mean([block.mean() > 1.5 for block in blocks]) > 0.9
    assert (values.max(axis=2) - values.min(axis=2)).mean() > 40
    assert values.mean(axis=2).std() > 40


def test_styles_differ():
    colors = [pixels(open_style(name)).mean(axis=(0, 1)) for name in names()]
    for index, color in enumerate(colors):
        assert all(np.abs(color - other).max() > 10 for other in colors[:index])


@pytest.mark.parametrize("name", sorted(STYLES))
def test_script_draws_what_is_bundled(name):
    """Up to what another version of Pillow may change in the last bits."""
    if name != "waves" and "NORMLAB_DRAW" not in os.environ:
        pytest.skip("takes up to a minute: set NORMLAB_DRAW=1 when tools/draw_styles.py has changed")
    again = draw(name)
    assert again.size == (SIZE, SIZE)
    assert np.abs(pixels(again) - pixels(open_style(name))).mean() < 2


def test_script_writes_over_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "waves.png").write_text("mine")
    monkeypatch.setattr("sys.argv", ["draw_styles", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "waves" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["waves.png"]
    assert (tmp_path / "waves.png").read_text() == "mine"


def test_script_writes_into_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["draw_styles", str(tmp_path / "new")])
    monkeypatch.setattr("tools.draw_styles.STYLES", {"waves": STYLES["waves"]})
    main()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["waves.png"]


def test_path_opens(tmp_path):
    Image.new("RGB", (5, 4), "red").save(tmp_path / "my.png")
    assert open_style(tmp_path / "my.png").size == (5, 4)
    assert open_style(str(tmp_path / "my.png")).size == (5, 4)


@pytest.mark.parametrize("style", ["nightt", "", "missing/picture.jpg"])
def test_unknown_style(style):
    with pytest.raises(SettingError, match="no style picture") as error:
        open_style(style)
    assert "\n" not in str(error.value)
    assert all(name in str(error.value) for name in names())


def test_unreadable_style(tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    (tmp_path / "folder").mkdir()
    for style in (tmp_path / "notes.png", tmp_path / "folder"):
        with pytest.raises(SettingError, match=r"style picture .*bundled ones: glass") as error:
            open_style(style)
        assert "\n" not in str(error.value)
        assert str(style) in str(error.value)


def test_several_pictures_make_one_style(tmp_path):
    wide, high = tmp_path / "wide.png", tmp_path / "high.png"
    for path, size, color in ((wide, (200, 100), "red"), (high, (100, 200), "blue")):
        picture = Image.new("RGB", size, color)
        picture.paste("white", (size[0] // 2, 0, size[0], size[1]))
        picture.save(path)
    picture = scaled_style(f"{wide}+{high}", 80)
    assert picture.shape == (3, 40, 80 + 40)
    assert picture[:, 20, 10].tolist() == [255, 0, 0]
    assert picture[:, 20, 85].tolist() == [0, 0, 255]
    assert name_of(f"{wide}+{high}") == "wide+high"
    (tmp_path / "a+b.png").write_bytes(wide.read_bytes())
    assert scaled_style(str(tmp_path / "a+b.png"), 80).shape == (3, 40, 80)
    with pytest.raises(SettingError, match="no style picture 'nigth'"):
        scaled_style("waves+nigth", 80)


def test_the_style_of_photos_themselves_needs_no_file():
    assert scaled_style("photo", 80).float().mean() == 255
    assert find_styles(["night", "photo"]) == ["night", "photo"]

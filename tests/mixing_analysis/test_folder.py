"""A report may renew itself, and nothing else."""

import os
from pathlib import Path

import pytest

from mixing_analysis.folder import MANIFEST, renewed
from norms.errors import SettingError

OUTPUTS = ("table.csv", "figures")


@pytest.fixture(autouse=True)
def _working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(folder="report", **files):
    with renewed(Path(folder), OUTPUTS) as staging:
        for name, text in files.items():
            path = staging / name.replace("__", "/").replace("_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)


def files(folder="report"):
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in Path(folder).rglob("*")
        if path.is_file() and path.name != MANIFEST
    }


def error_of(folder="report"):
    with pytest.raises(SettingError) as caught:
        write(folder, table_csv="new")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_report_is_written_and_renewed():
    write("a/b/report", table_csv="1", figures__x_png="2", figures__y_png="3")
    assert files("a/b/report") == {"table.csv": "1", "figures/x.png": "2", "figures/y.png": "3"}
    write("a/b/report", table_csv="4", figures__y_png="5")
    assert files("a/b/report") == {"table.csv": "4", "figures/y.png": "5"}
    write("a/b/report", table_csv="6")
    assert not Path("a/b/report/figures").exists()


def test_other_files_stay():
    Path("report/notes").mkdir(parents=True)
    Path("report/notes/mine.txt").write_text("mine")
    write(table_csv="1")
    write(table_csv="2")
    assert files() == {"notes/mine.txt": "mine", "table.csv": "2"}


@pytest.mark.parametrize("name", ["table.csv", "figures/mine.png", "figures"])
def test_a_file_of_somebody_else_is_not_replaced(name):
    path = Path("report") / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert error_of() == f"{path} is not of a report of analyze.py: choose another folder with -o"
    assert files() == {name: "mine"}


def test_a_link_of_somebody_else_is_not_replaced():
    Path("report").mkdir()
    os.symlink("nowhere", "report/table.csv")
    assert "report/table.csv is not of a report" in error_of()


@pytest.mark.parametrize("listed", ["figures/mine.png", "figures/deep/mine.png", "table.csv"])
def test_nothing_behind_a_link_is_renewed_or_removed(listed):
    """A list of files may lie: what it names is outside if a folder on the way, or the file, is a link."""
    outside = Path("outside", Path(listed).name)
    outside.parent.mkdir()
    outside.write_text("mine")
    link = Path("report", listed if listed == "table.csv" else Path(listed).parent)
    link.parent.mkdir(parents=True)
    link.symlink_to((outside if listed == "table.csv" else outside.parent).absolute())
    Path("report", MANIFEST).write_text(f"{listed}\n")
    for new in ({"table_csv": "new"}, {"figures__mine_png": "new"}):
        with pytest.raises(SettingError, match=rf"^{link} is not of a report of analyze\.py: choose another"):
            write(**new)
    assert outside.read_text() == "mine"


def test_a_link_in_the_place_of_the_list_is_not_written_through():
    Path("outside.txt").write_text("mine")
    Path("report").mkdir()
    for name in (MANIFEST, f"{MANIFEST}.partial"):
        Path("report", name).symlink_to(Path("outside.txt").absolute())
    write(table_csv="1")
    assert Path("outside.txt").read_text() == "mine"
    assert not Path("report", MANIFEST).is_symlink()


def test_a_report_may_be_a_link_to_a_folder():
    Path("elsewhere").mkdir()
    Path("report").symlink_to("elsewhere")
    write(table_csv="1", figures__x_png="2")
    write(table_csv="3")
    assert files("elsewhere") == {"table.csv": "3"}


def test_a_file_in_an_own_folder_is_not_of_the_report():
    write(figures__x_png="1")
    Path("report/figures/mine.png").write_text("mine")
    assert "report/figures/mine.png is not of a report" in error_of()


def test_a_list_that_was_tampered_with_removes_nothing_else():
    Path("report").mkdir()
    Path("report/notes.txt").write_text("mine")
    Path("outside.txt").write_text("mine")
    Path("report", MANIFEST).write_text("notes.txt\nfigures/../../outside.txt\n")
    write(table_csv="1")
    assert files() == {"notes.txt": "mine", "table.csv": "1"}
    assert Path("outside.txt").is_file()


def test_an_error_leaves_the_old_report_and_no_trace():
    write(table_csv="old")
    for folder in ("report", "new/report"):
        with pytest.raises(TypeError):
            write(folder, table_csv="new", figures__x_png=b"no text")
    assert files() == {"table.csv": "old"}
    assert sorted(os.listdir("report")) == [MANIFEST, "table.csv"]
    assert not Path("new").exists()


def test_folders_that_cannot_be_written_to():
    Path("file").write_text("")
    assert error_of("file") == "cannot write to file: File exists"
    assert error_of("file/report") == "cannot write to file/report: Not a directory"
    if os.geteuid():
        Path("closed").mkdir(mode=0o500)
        assert error_of("closed") == "cannot write to closed: Permission denied"


def test_a_full_disk_is_told():
    with (
        pytest.raises(SettingError, match=r"^cannot write to report: No space left on device$"),
        renewed(Path("report"), OUTPUTS),
    ):
        raise OSError(28, "No space left on device")
    assert not Path("report").exists()

import pytest

from training.files import replacing


def test_a_file_appears_whole_in_a_folder_that_is_made(tmp_path):
    file = tmp_path / "new" / "file"
    with replacing(file) as partial:
        partial.write_text("half of it")
        assert not file.exists()
        assert partial.parent == file.parent
        partial.write_text("all of it")
    assert [path.name for path in file.parent.iterdir()] == ["file"]
    assert file.read_text() == "all of it"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("begun", [True, False])
def test_what_ends_the_writing_leaves_the_old_file_and_no_other(error, begun, tmp_path):
    file = tmp_path / "file"
    file.write_text("old")

    def write():
        with replacing(file) as partial:
            if begun:
                partial.write_text("half of it")
            raise error("what ends it")

    with pytest.raises(error, match="what ends it"):
        write()
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_text() == "old"


def test_a_file_that_cannot_take_its_place_is_removed(tmp_path):
    folder = tmp_path / "file"
    folder.mkdir()
    with pytest.raises(IsADirectoryError), replacing(folder) as partial:
        partial.write_text("new")
    assert list(tmp_path.iterdir()) == [folder]

"""Files of many images: what they hold, that a batch alone is in memory, and that none is ever half there."""

import gc
import io
import os
import signal
import weakref
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from gan_runs import make_gan, write_run
from PIL import Image
from processes import CONTEXT, ended
from safetensors import safe_open

from norms.errors import SettingError
from sampling import draw as drawing
from sampling import files
from sampling.command import main
from sampling.plan import Plan, truncated
from sampling.trained import TrainedGenerator


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("gan") / "version_0", make_gan(num_classes=3))


@pytest.fixture(scope="module")
def trained(run):
    return TrainedGenerator.find(run)


def levels(trained, plan):
    """The images of a plan by the formula, as levels of gray."""
    drawn = torch.cat(list(drawing.batches(trained, plan)))
    return 255 * drawn.permute(0, 2, 3, 1).numpy()


def test_an_npz_holds_images_labels_seeds_and_latents(run, trained, tmp_path):
    path = tmp_path / "images.npz"
    options = ["--label=2", "--label=0", "--count=70", "--seed=5", "--truncation=0.9"]
    assert main([str(run), "--each", str(path), *options, "--save-latents", str(tmp_path / "l.safetensors")]) == 0
    plan = Plan(70, 8, 5, 0.9, (2, 0))
    with np.load(path) as content:
        assert sorted(content) == ["arr_0", "arr_1", "latents", "seeds"]
        assert content["arr_0"].dtype == np.uint8
        assert content["arr_0"].shape == (70, 16, 16, 1)
        np.testing.assert_allclose(content["arr_0"], levels(trained, plan), atol=1)
        assert content["arr_1"].tolist() == [2, 0] * 35
        assert np.array_equal(content["latents"], plan.latents(range(70)).numpy())
        drawn = [torch.randn(8, generator=torch.Generator().manual_seed(int(seed))) for seed in content["seeds"]]
        with safe_open(tmp_path / "l.safetensors", "np") as saved:
            assert saved.metadata() == {"seed": "5", "truncation": "0.9"}
            assert np.array_equal(saved.get_tensor("latents"), content["latents"])
            assert np.array_equal(saved.get_tensor("seeds"), content["seeds"])
            assert np.array_equal(saved.get_tensor("labels"), content["arr_1"])
        assert torch.equal(truncated(torch.stack(drawn), 0.9), torch.from_numpy(content["latents"]))


def test_a_zip_holds_png_files_as_they_are(run, trained, tmp_path):
    assert main([str(run), "--each", str(tmp_path / "images.zip"), "--count", "3"]) == 0
    expected = levels(trained, Plan(3, 8, labels=(0, 1, 2)))
    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        assert archive.namelist() == ["00000.png", "00001.png", "00002.png"]
        for number, member in enumerate(archive.infolist()):
            assert member.compress_type == zipfile.ZIP_STORED
            image = np.asarray(Image.open(io.BytesIO(archive.read(member))))
            np.testing.assert_allclose(image, expected[number, ..., 0], atol=1)


@pytest.mark.parametrize("name", ["images.zip", "images.npz"])
def test_equal_images_make_equal_files(name, run, tmp_path):
    for place in ("first", "second"):
        assert main([str(run), "--each", str(tmp_path / place / name), "--count", "2"]) == 0
    assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


class Counting:
    """Draw images of nothing, and count how many batches of them live at once."""

    latent_dim, num_classes, image_shape, device = 4, 0, (3, 32, 32), torch.device("cpu")

    def __init__(self):
        self.alive = self.most = self.drawn = 0

    def draw(self, latents, labels):
        images = torch.zeros(len(latents), *self.image_shape)
        self.alive, self.drawn = self.alive + 1, self.drawn + 1
        self.most = max(self.most, self.alive)
        weakref.finalize(images, self._gone)
        return images

    def _gone(self):
        self.alive -= 1


@pytest.mark.parametrize("name", ["folder", "images.zip", "images.npz"])
def test_no_more_than_a_few_batches_are_in_memory(name, tmp_path):
    generator, plan = Counting(), Plan(20 * drawing.BATCH, 4)
    gc.collect()
    with files.writer(tmp_path / name, plan, generator.image_shape, False) as add:
        for batch in drawing.batches(generator, plan):
            add((255 * batch).to(torch.uint8))
    assert generator.drawn == 20
    assert generator.most <= 2


@pytest.mark.parametrize("name", ["images.zip", "images.npz"])
def test_an_interrupted_file_leaves_what_was_there(name, tmp_path):
    path, plan = tmp_path / name, Plan(4, 4)
    path.write_text("precious")
    with suppress(KeyboardInterrupt), files.writer(path, plan, (1, 8, 8), overwrite=True) as add:
        add(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
        raise KeyboardInterrupt
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def die_while_writing(path):
    with files.writer(path, Plan(4, 4), (1, 8, 8), overwrite=False) as add:
        add(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["images.zip", "images.npz", "folder"])
def test_a_killed_process_leaves_no_half_file(name, tmp_path):
    process = CONTEXT.Process(target=die_while_writing, args=[tmp_path / name])
    process.start()
    assert ended(process) == -signal.SIGKILL
    assert not (tmp_path / name).is_file()
    if name == "folder":
        assert [np.asarray(Image.open(file)).shape for file in (tmp_path / name).iterdir()] == [(8, 8)] * 2


@pytest.mark.parametrize("name", ["images.zip", "images.npz"])
def test_existing_files_are_kept_unless_told(name, tmp_path):
    (tmp_path / name).write_text("precious")
    with pytest.raises(SettingError, match=f"{name} exists: choose another path or add --overwrite"):
        files.writer(tmp_path / name, Plan(1, 4), (1, 8, 8), overwrite=False)


def test_images_of_a_larger_drawing_are_not_left_among_new_ones(tmp_path):
    folder = tmp_path / "images"
    with files.writer(folder, Plan(3, 4), (1, 2, 2), False) as add:
        add(torch.zeros(3, 1, 2, 2, dtype=torch.uint8))
    (folder / "notes.png").touch()
    with files.writer(folder, Plan(3, 4), (1, 2, 2), True) as add:
        add(torch.zeros(3, 1, 2, 2, dtype=torch.uint8))
    with pytest.raises(SettingError, match=r"00001\.png and 1 more would stay there beside the new images: empty the"):
        files.writer(folder, Plan(1, 4), (1, 2, 2), True)


def test_a_disk_that_is_full_is_told_in_one_line(run, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    assert main([str(run), "--each", str(tmp_path / "images.zip"), "--count", "1"]) == 2
    assert capsys.readouterr().err == f"error: cannot write {tmp_path / 'images.zip'}: No space left on device\n"
    assert list(tmp_path.iterdir()) == []

import pytest
import torch
from stand_ins import PlainModel, TinyModel

from norms.errors import SettingError
from training.checkpoints import find_checkpoint, load


def write(path, module=None):
    module = module or TinyModel(width=5)
    checkpoint = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "pytorch-lightning_version": "2.6.4",
    }
    module.on_save_checkpoint(checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, path)
    return path


def test_a_file_a_run_folder_and_a_folder_of_versions_lead_to_the_checkpoint(tmp_path):
    old = write(tmp_path / "run/version_2/checkpoints/last.ckpt")
    new = write(tmp_path / "run/version_10/checkpoints/last.ckpt")
    (tmp_path / "run/version_11").mkdir()  # a run that was killed before its first checkpoint
    assert find_checkpoint(old) == old
    assert find_checkpoint(str(tmp_path / "run/version_2")) == old
    assert find_checkpoint(tmp_path / "run") == new


def test_without_a_last_checkpoint_the_newest_serves(tmp_path):
    path = write(tmp_path / "checkpoints/step_0000005.ckpt")
    assert find_checkpoint(tmp_path) == path


def test_a_loaded_module_is_the_saved_one_in_evaluation(tmp_path):
    torch.manual_seed(0)
    module = TinyModel(width=5).eval()
    loaded = load(TinyModel, write(tmp_path / "last.ckpt", module))
    x = torch.rand(2, 3, 8, 8)
    assert not loaded.training
    torch.testing.assert_close(loaded.net(x), module.net(x), rtol=0, atol=0)


def broken(path):
    path.write_bytes(b"PK not really")
    return path


def foreign(path):
    torch.save({"weights": torch.zeros(2)}, path)
    return path


def tensor(path):
    torch.save(torch.zeros(2), path)
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path, "no such run folder or checkpoint"),
        (lambda path: path.parent, "holds no checkpoint: expected .*last.ckpt"),
        (broken, "is not a readable checkpoint"),
        (foreign, "is not a checkpoint written by normlab"),
        (tensor, "is not a checkpoint written by normlab"),
        (lambda path: write(path, PlainModel()), "is a checkpoint of PlainModel, not of TinyModel"),
    ],
)
def test_what_cannot_be_loaded_is_answered_in_one_line(tmp_path, make, reason):
    with pytest.raises(SettingError, match=reason) as error:
        load(TinyModel, make(tmp_path / "last.ckpt"))
    assert "\n" not in str(error.value)


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"evil": Evil()}, tmp_path / "last.ckpt")
    with pytest.raises(SettingError, match="is not a readable checkpoint"):
        load(TinyModel, tmp_path / "last.ckpt")
    assert not (tmp_path / "ran").exists()

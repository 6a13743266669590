from pathlib import Path

import pytest
import torch
from stand_ins import PlainModel, TinyModel

from norms.errors import SettingError
from training.run import Run

ROOT = Path(__file__).parents[2]


def write(path, module=None, **settings):
    module = module or TinyModel(width=5)
    checkpoint = {
        "state_dict": module.state_dict(),
        "hyper_parameters": {**module.hparams, "_class_path": "left by LightningCLI", **settings},
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
    assert Run.find(old).checkpoint == old
    assert Run.find(str(tmp_path / "run/version_2")).checkpoint == old
    assert Run.find(tmp_path / "run").checkpoint == new


def test_without_a_last_checkpoint_the_newest_serves(tmp_path):
    path = write(tmp_path / "checkpoints/step_0000005.ckpt")
    assert Run.find(tmp_path).checkpoint == path


def test_a_loaded_module_is_the_saved_one_in_evaluation(tmp_path):
    torch.manual_seed(0)
    module = TinyModel(width=5).eval()
    loaded = Run.find(write(tmp_path / "last.ckpt", module)).load(TinyModel)
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
        (tensor, "is not a checkpoint: it holds a Tensor"),
        (lambda path: write(path, PlainModel()), "is a checkpoint of PlainModel, not of TinyModel"),
        (lambda path: write(path, TinyModel(), width=9), "does not fit TinyModel as it is now: .*size mismatch"),
        (lambda path: write(path, TinyModel(), depth=9), "does not fit TinyModel as it is now: .*'depth'"),
    ],
)
def test_what_cannot_be_loaded_is_answered_in_one_line(tmp_path, make, reason):
    with pytest.raises(SettingError, match=reason) as error:
        Run.find(make(tmp_path / "last.ckpt")).load(TinyModel)
    assert "\n" not in str(error.value)


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"evil": Evil()}, tmp_path / "last.ckpt")
    with pytest.raises(SettingError, match="is not a readable checkpoint"):
        Run.find(tmp_path / "last.ckpt").load(TinyModel)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_is_read_once(tmp_path, monkeypatch):
    run, reads, load = Run.find(write(tmp_path / "last.ckpt")), [], torch.load
    monkeypatch.setattr("torch.load", lambda *args, **kwargs: reads.append(args) or load(*args, **kwargs))
    assert run.state["hyper_parameters"]["width"] == 5
    assert run.module_name == "TinyModel"
    run.load(TinyModel)
    assert len(reads) == 1


def test_a_loaded_module_does_not_hang_on_its_file(tmp_path):
    path = write(tmp_path / "last.ckpt")
    module = Run.find(path).load(TinyModel)
    before = module.net.first.weight.clone()
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(module.net.first.weight, before)


def test_a_new_run_is_numbered_above_all_that_are_there(tmp_path):
    for name in ("version_2", "version_10", "version_x", "version_", "other"):
        (tmp_path / "gan" / name).mkdir(parents=True)
    assert [run.version for run in Run.versions(tmp_path / "gan")] == [10, 2]
    run = Run.new(tmp_path / "gan")
    assert (run.folder, run.version, run.name) == (tmp_path / "gan/version_11", 11, "gan/version_11")
    assert run.folder.is_dir()
    assert Run.new(tmp_path / "new").folder == tmp_path / "new/version_0"


def test_runs_that_start_at_the_same_moment_have_folders_of_their_own(tmp_path, monkeypatch):
    Run.new(tmp_path)
    monkeypatch.setattr(Run, "versions", lambda parent: [])
    assert Run.new(tmp_path).version == 1


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match=r"cannot make the run folder .*file/version_0: Not a directory"):
        Run.new(tmp_path / "file")


def test_mixing_values_make_a_run_for_who_needs_no_checkpoint(tmp_path):
    write(tmp_path / "version_0/checkpoints/last.ckpt")
    (tmp_path / "version_1/mixing").mkdir(parents=True)
    (tmp_path / "version_2").mkdir()
    assert Run.find(tmp_path, with_checkpoint=False).version == 1
    assert Run.find(tmp_path).version == 0
    assert Run.find(tmp_path / "version_1", with_checkpoint=False).newest_checkpoint() is None
    with pytest.raises(SettingError, match=r"holds no run: expected .*mixing or .*checkpoints"):
        Run.find(tmp_path / "version_2", with_checkpoint=False)


def test_steps_of_mixing_values_come_in_order(tmp_path):
    run = Run(tmp_path)
    run.mixing.mkdir()
    for path in (run.mixing_values(12345678), run.mixing_values(5), run.mixing_kinds, run.mixing / "step_new.npz"):
        path.touch()
    assert run.mixing_steps() == {5: run.mixing_values(5), 12345678: run.mixing_values(12345678)}


def test_a_checkpoint_somewhere_else_has_no_run_folder(tmp_path):
    (tmp_path / "config.yaml").write_text("seed_everything: 3")
    inside, outside = write(tmp_path / "checkpoints/last.ckpt"), write(tmp_path / "best.ckpt")
    assert (Run.find(inside).has_folder, Run.find(inside).folder) == (True, tmp_path)
    assert (Run.find(outside).has_folder, Run.find(outside).folder) == (False, tmp_path)
    assert Run.find(inside).read_config() == {"seed_everything": 3}
    assert Run.find(outside).read_config() is None


@pytest.mark.parametrize("text", [None, "- a list", "{", "\ud800"])
def test_a_configuration_that_is_none(tmp_path, text):
    if text is not None:
        (tmp_path / "config.yaml").write_bytes(text.encode(errors="surrogatepass"))
    assert Run(tmp_path).read_config() is None


def test_the_newest_configuration_is_the_last_that_the_run_went_on_with(tmp_path):
    run = Run(tmp_path)
    assert run.newest_config == run.config
    run.resumed_config(900).touch()
    run.resumed_config(12000).touch()
    assert run.newest_config == run.resumed_config(12000)

"""Damaged files: each is answered in one line, by what reads it and by what goes on from it."""

import random
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from stand_ins import TinyModel, fit

from lightning_modules.gan import GAN
from lightning_modules.style_transfer import StyleTransfer
from norms.errors import SettingError
from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.run_folder import RunFolder
from training.command import main
from training.loggers import MetricsLogger
from training.run import Run

CONFIG = "name: tiny\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    fit(folder, [RunCheckpoint(3, keep_all=True)], max_steps=6)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(trained / "checkpoints/last.ckpt", folder / "checkpoints/last.ckpt")
    return Run(folder)


def resume(run, max_steps=8, **options):
    """Go on as ``train.py`` does."""
    run = Run.find(run.last)
    _ = run.module_name
    run.check_parts(resuming=True)
    model = TinyModel(**options)
    run.check_finite(model)
    return fit(run.folder, [RunFolder(CONFIG)], model, max_steps=max_steps, ckpt_path=run.checkpoint)


@pytest.fixture(autouse=True)
def _without_wandb(monkeypatch):
    monkeypatch.setattr(RunFolder, "on_fit_start", lambda *_: None)


def rewrite(run, change):
    state = torch.load(run.last, weights_only=True)
    replaced = change(state)
    torch.save(state if replaced is None else replaced, run.last)


def without(*keys):
    def change(state):
        for key in keys[:-1]:
            state = state[key]
        del state[keys[-1]]

    return change


def having(value, *keys):
    def change(state):
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return change


def multiplied(times):
    value = [0] * 10
    for _ in range(times):
        value = [value] * 10
    return value


WEIGHT = ("state_dict", "net.first.weight")
MOMENT = ("optimizer_states", 0, "state", 0, "exp_avg")

UNREADABLE = {
    "normlab": having(None, "normlab"),
    "no module": having({}, "normlab"),
    "no weights": without("state_dict"),
    "weights of None": having(None, "state_dict"),
    "text for weights": having("text", *WEIGHT),
    "NaN": having(torch.full((4, 3, 3, 3), torch.nan), *WEIGHT),
    "NaN rho": having(torch.full((4,), torch.nan), "state_dict", "net.norm1.rho"),
    "infinite buffer": having(torch.full((4,), torch.inf), "state_dict", "net.norm2.running_var"),
    "float8": having(torch.full((4, 3, 3, 3), torch.nan).to(torch.float8_e5m2), *WEIGHT),
    "missing": without(*WEIGHT),
    "wrong shape": having(torch.zeros(2), *WEIGHT),
    "no table of settings": having(3, "hyper_parameters"),
    "settings of numbers": having({3: 4}, "hyper_parameters"),
    "within itself": lambda state: having(state, "callbacks")(state),
    "many times over": having(multiplied(12), "callbacks"),
}

UNRESUMABLE = {
    "other settings": having(9, "hyper_parameters", "width"),
    "no optimizer": without("optimizer_states"),
    "no optimizers": having([], "optimizer_states"),
    "None for an optimizer": having([None], "optimizer_states"),
    "empty optimizer": having({}, "optimizer_states", 0),
    "another schedule": having([{}], "lr_schedulers"),
    "no schedule": without("lr_schedulers"),
    "no loops": without("loops"),
    "empty loops": having({}, "loops", "fit_loop"),
    "no version": without("pytorch-lightning_version"),
    "no step": without("global_step"),
    "text for a step": having("six", "global_step"),
    "other optimizer": having([], "optimizer_states", 0, "param_groups"),
    "other moments": having(torch.zeros(7), *MOMENT),
    "no moments": without(*MOMENT),
    "None for a parameter": having(None, *MOMENT[:-1]),
    "None for a group": having([None], "optimizer_states", 0, "param_groups"),
    "no parameters in a group": without("optimizer_states", 0, "param_groups", 0, "params"),
}


@pytest.mark.parametrize("change", UNREADABLE.values(), ids=UNREADABLE)
def test_a_checkpoint_that_cannot_be_used_is_answered_in_one_line(change, run):
    rewrite(run, change)
    for use in (lambda: Run.find(run.last).load(TinyModel), lambda: resume(run)):
        with pytest.raises(SettingError) as error:
            use()
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 400
    assert [path.name for path in run.folder.iterdir()] == ["checkpoints"]


@pytest.mark.parametrize("change", UNRESUMABLE.values(), ids=UNRESUMABLE)
def test_a_checkpoint_that_no_training_can_go_on_from_is_answered_in_one_line(change, run):
    rewrite(run, change)
    with pytest.raises(SettingError) as error:
        resume(run)
    assert "\n" not in str(error.value)
    assert [path.name for path in run.folder.iterdir()] == ["checkpoints"]


@pytest.mark.parametrize(
    "name", [name for name in UNRESUMABLE if name != "other settings"] + ["wrong shape", "missing"]
)
def test_what_is_wrong_with_a_checkpoint_is_told_with_its_file_and_the_whole_ones_beside_it(
    name, trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "run")
    run = Run("run")
    rewrite(run, {**UNRESUMABLE, **UNREADABLE}[name])
    run.step_checkpoint(6).unlink()
    options = "--model stand_ins.TinyModel --data stand_ins.TinyData --trainer.accelerator cpu --trainer.max_steps 8"
    assert main(["fit", *options.split(), "--ckpt_path", str(run.last)]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert str(run.last) in line
    assert line.endswith(f"; whole checkpoints beside it: {run.step_checkpoint(3)}")


@pytest.mark.parametrize("seed", range(3))
def test_flipped_bytes_within_a_tensor_are_noticed(seed, run):
    data, places = bytearray(run.last.read_bytes()), random.Random(seed)
    weights = torch.load(run.last, weights_only=True)["state_dict"]["net.second.weight"]
    start = data.index(weights.numpy().tobytes())
    for place in places.sample(range(weights.nbytes), 20):
        data[start + place] ^= 1 << places.randrange(8)
    run.last.write_bytes(data)
    with pytest.raises(SettingError, match=r"last\.ckpt is damaged: its part .*data/\d+ does not have the checksum"):
        Run.find(run.last).load(TinyModel)


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<document/>")


def with_damaged_header(path):
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"PK\1\2")] + bytes(4) + data[data.rindex(b"PK\1\2") + 4 :])


def cut(at):
    return lambda path: path.write_bytes(path.read_bytes()[:at])


def holding(content):
    return lambda path: path.write_bytes(content)


WHY = {
    "empty": (cut(0), "it is empty"),
    **{f"cut at {at}": (cut(at), "it is cut off or damaged") for at in (1, 100, -1, -100)},
    "central directory": (with_damaged_header, "it is cut off or damaged"),
    "text": (holding(b"encoder.weight: 1"), "it is no checkpoint at all"),
    "zeros": (holding(bytes(5000)), "it is no checkpoint at all"),
    "another archive": (zipped, "it is no checkpoint at all"),
    "half a pickle": (
        holding(b"\x80\2}q"),
        "it holds more than tensors and plain values, or is cut off or damaged; .*",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), WHY.values(), ids=WHY)
def test_why_a_checkpoint_cannot_be_read_is_told_in_plain_words(damage, reason, run):
    damage(run.last)
    with pytest.raises(SettingError) as error:
        Run.find(run.last).load(TinyModel)
    assert re.fullmatch(re.escape(f"{run.last} is not a readable checkpoint: ") + reason, str(error.value))


def test_a_checkpoint_that_torch_wrote_without_checksums_is_read(run):
    state = torch.load(run.last, weights_only=True)
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, run.last)
    finally:
        torch.serialization.set_crc32_options(before)
    assert Run.find(run.last).load(TinyModel)


@pytest.mark.parametrize("damage", ["bytes", "NaN", "no weights"])
def test_whole_checkpoints_beside_a_damaged_one_are_named(damage, trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    run = Run(folder)
    run.step_checkpoint(6).write_bytes(b"damaged too")
    if damage == "bytes":
        run.last.write_bytes(run.last.read_bytes()[:-9])
    else:
        rewrite(run, UNREADABLE[damage])
    with pytest.raises(SettingError) as error:
        Run.find(folder).load(TinyModel)
    assert str(error.value).endswith(f"; whole checkpoints beside it: {run.step_checkpoint(3)}")


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (StyleTransfer, {"widths": [10**6, 10**6, 10**6]}, "its settings make a module of more than .* weights"),
        (StyleTransfer, {"num_blocks": 10**9}, "num_blocks must be at least 0 and at most 1000, got 1000000000"),
        (GAN, {"latent_dim": 10**10}, "latent_dim must be at least 1 and at most 65536, got 10000000000"),
    ],
)
def test_settings_that_would_fill_the_memory_are_refused_before_they_do(module, settings, message, tmp_path):
    small = GAN("resnet16", latent_dim=4) if module is GAN else StyleTransfer(widths=[4, 4, 4], num_blocks=1)
    state = {"state_dict": small.state_dict(), "hyper_parameters": {**small.hparams, **settings}}
    small.on_save_checkpoint(state)
    torch.save(state, tmp_path / "last.ckpt")
    with pytest.raises(SettingError, match=message):
        Run.find(tmp_path / "last.ckpt").load(module)


@pytest.mark.parametrize("text", [b"\xff\xfe\x00", b"{", b"- a list", b"", b"a: &a {b: *a}"])
def test_a_damaged_configuration_is_set_aside(text, run, recwarn):
    run.config.write_bytes(text)
    assert resume(run).global_step == 8
    assert run.config.read_text() == CONFIG
    assert (run.folder / "config.yaml.damaged").read_bytes() == text
    told = [str(w.message) for w in recwarn if "config.yaml" in str(w.message)]
    assert told == [f"{run.config} is damaged: it is now config.yaml.damaged, and the run goes on with a new one"]


ROWS = b"step,train/loss\n0,0.5\n1,0.25\n"


@pytest.mark.parametrize(
    ("damaged", "kept"),
    [
        (ROWS.replace(b"1,", b"\xff,"), ["0"]),
        (ROWS.replace(b"1,", b"one,"), ["0"]),
        (ROWS.replace(b"1,", b"1" * 5000 + b","), ["0"]),
        (ROWS.replace(b"0.25", b"\0\0\0\0"), ["0"]),
        (ROWS.replace(b"0,0.5", b"0"), ["1"]),
        (ROWS.replace(b"step", b"\xfe\xfep"), []),
        (bytes(300_000), []),
    ],
)
def test_damaged_metrics_are_set_aside_and_whole_rows_kept(damaged, kept, run, recwarn):
    run.metrics.write_bytes(damaged + b"\n")
    assert resume(run).global_step == 8
    assert (run.folder / "metrics.csv.damaged").read_bytes() == damaged + b"\n"
    header, *rows = run.metrics.read_text().splitlines()
    assert header.startswith("step,")
    assert [row.split(",")[0] for row in rows] == [*kept, "7", "8"]
    assert len([w for w in recwarn if "metrics.csv.damaged" in str(w.message)]) == 1


def test_folders_in_the_place_of_files_are_set_aside(run, recwarn):
    for path in (run.config, run.metrics):
        path.unlink(missing_ok=True)
        path.mkdir()
    assert resume(run).global_step == 8
    for path in (run.config, run.metrics):
        assert path.is_file()
        assert path.with_name(f"{path.name}.damaged").is_dir()
        assert len([w for w in recwarn if f"{path.name}.damaged" in str(w.message)]) == 1


def test_half_a_last_row_is_no_damage(tmp_path, recwarn):
    (tmp_path / "metrics.csv").write_bytes(ROWS + b"2,0.1")
    MetricsLogger(tmp_path).go_on_at(5)
    assert (tmp_path / "metrics.csv").read_bytes() == ROWS
    assert [path.name for path in Path(tmp_path).iterdir()] == ["metrics.csv"]
    assert not [w for w in recwarn if "damaged" in str(w.message)]

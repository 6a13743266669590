"""What is read of run folders and checkpoints: the exact values, under the names of the log, and what is refused."""

import copy
import csv
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from stand_ins import TinyModel
from torch import nn

import norms
from lightning_modules.gan import GAN
from mixing_analysis.comparisons import layer_values
from mixing_analysis.sources import read_runs
from mixing_analysis.values import combine, names_of_today, summaries
from norms.errors import SettingError
from norms.kinds import BUILTIN, RHO
from training.command import main

TINY = """
name: tiny
trainer: {max_steps: 12, accelerator: cpu, val_check_interval: 5, log_every_n_steps: 1, enable_model_summary: false}
checkpoint: {every_n_train_steps: 3}
mixing: {every_n_steps: 5}
samples: {every_n_steps: 100}
model: {class_path: stand_ins.TinyModel}
data: {class_path: stand_ins.TinyData}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder as ``train.py`` leaves it, made once."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "disabled")
        Path("tiny.yaml").write_text(TINY)
        assert main(["fit", "--config", "tiny.yaml"]) == 0
    return folder / "runs" / "tiny" / "version_0"


@pytest.fixture
def run_dir(trained, tmp_path):
    """A copy of it, to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / "tiny" / "version_0"))


def read(source):
    (run,) = read_runs([str(source)])
    return run


def error_of(*sources):
    with pytest.raises(SettingError) as caught:
        read_runs([str(source) for source in sources])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def values_of(frame, layer, kind, step=None):
    rows = frame[(frame["layer"] == layer) & (frame["kind"] == kind)]
    return (rows if step is None else rows[rows["step"] == step])["value"].tolist()


def test_the_table_holds_the_checkpoint_exactly(trained):
    checkpoint = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    model = TinyModel()
    model.load_state_dict(checkpoint["state_dict"])
    run = read(trained)
    assert run.steps == [0, 5, 10, 12]
    last = run.frame[run.frame["step"] == 12]
    assert min(values_of(last, "norm1", "rho")) < 0.95, "rho has not moved, so that nothing is tested"
    expected = {("norm1", "rho"): model.net.norm1.rho, ("norm1", "gamma"): model.net.norm1.weight}
    expected[("norm2", "gamma")] = model.net.norm2.weight
    for (layer, kind), value in expected.items():
        assert values_of(last, layer, kind) == value.tolist()
    for kind, value in model.net.norm2.mixing_values().items():
        assert values_of(last, "norm2", kind) == value.tolist()
    assert len(last) == sum(map(len, expected.values())) + 6
    # And so does a notebook.
    told = [
        (value.depth, value.kind, value.channel, value.statistic, value.value) for value in norms.mixing_values(model)
    ]
    rows = last[last["kind"] != "gamma"][["depth", "kind", "channel", "statistic", "value"]]
    assert rows.astype(object).where(rows.notna(), None).apply(tuple, axis=1).tolist() == told


def test_the_table_agrees_with_metrics_csv_to_print_precision(trained):
    table = combine([read(trained)])
    ours = summaries(table, RHO).set_index("step")
    ours = ours.rename(columns={"below": "share_below_0_1", "above": "share_above_0_9"})
    switches = layer_values(table, BUILTIN).set_index(["step", "kind", "measure"])["value"]
    with (trained / "metrics.csv").open(newline="") as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file) if row["rho/00_norm1/mean"]}
    assert rows.keys() == {0, 5, 10, 12}
    for step, row in rows.items():
        for name in ("mean", "min", "max", "std", "share_below_0_1", "share_above_0_9"):
            assert ours.loc[step, name] == pytest.approx(float(row[f"rho/00_norm1/{name}"]), rel=1e-6, abs=1e-7)
        for moment in ("mean", "var"):
            for statistic in norms.STATISTICS:
                logged = float(row[f"switch/01_norm2/{moment}/{statistic}"])
                assert switches[(step, f"{moment}_weight", statistic)] == logged


def test_the_arrays_of_all_steps_are_read(trained):
    run = read(trained)
    for step in run.steps:
        with np.load(trained / "mixing" / f"step_{step:07d}.npz") as file:
            assert values_of(run.frame, "norm1", "rho", step) == file["norm1/rho"].tolist()


def test_a_run_folder_knows_its_settings_and_its_checkpoint(trained):
    run = read(trained)
    assert run.name == run.group == "tiny/version_0"
    assert run.config["model"]["class_path"] == "stand_ins.TinyModel"
    assert run.checkpoint == trained / "checkpoints" / "last.ckpt"
    assert run.notes == ()


def test_a_checkpoint_of_a_run_folder_is_one_step_of_it(trained):
    run, checkpoint = read(trained), read(trained / "checkpoints" / "last.ckpt")
    assert checkpoint.name == "tiny/version_0:last.ckpt"
    assert checkpoint.config == run.config
    same = run.frame[run.frame["step"] == 12].reset_index(drop=True)
    pd.testing.assert_frame_equal(checkpoint.frame, same)


def test_a_folder_of_versions_is_its_newest(run_dir):
    for version in (2, 10):
        shutil.copytree(run_dir, run_dir.with_name(f"version_{version}"))
    run_dir.with_name("version_11").mkdir()
    assert read(run_dir.parent).name == "tiny/version_10"


def test_a_run_without_a_checkpoint_is_read_from_its_arrays(run_dir):
    shutil.rmtree(run_dir / "checkpoints")
    run = read(run_dir)
    assert run.steps == [0, 5, 10, 12]
    assert run.checkpoint is None
    assert "gamma" not in set(run.frame["kind"])


def test_a_run_with_a_damaged_checkpoint_is_read_from_its_arrays_and_says_so(run_dir):
    (run_dir / "checkpoints" / "last.ckpt").write_bytes(b"PK nonsense")
    run = read(run_dir)
    assert run.steps == [0, 5, 10, 12]
    assert run.notes[0].startswith("without the checkpoint: ")


def test_a_run_without_arrays_is_read_from_its_checkpoint(run_dir):
    shutil.rmtree(run_dir / "mixing")
    assert read(run_dir).steps == [12]


def test_a_checkpoint_of_other_layers_is_left_out_and_told(run_dir):
    save_state(nn.ModuleDict({"other": norms.BatchInstanceNorm2d(2)}), run_dir / "checkpoints" / "last.ckpt")
    run = read(run_dir)
    assert run.steps == [0, 5, 10, 12]
    assert "other layers" in run.notes[0]


def test_a_run_without_learned_norms_is_told(run_dir):
    shutil.rmtree(run_dir / "mixing")
    torch.save({"state_dict": nn.BatchNorm2d(2).state_dict()}, run_dir / "checkpoints" / "last.ckpt")
    message = error_of(run_dir)
    assert "last.ckpt holds no layer that learns how to normalize: none of its 5 tensors is a rho" in message


def test_damaged_arrays_are_told(run_dir):
    (run_dir / "mixing" / "step_0000005.npz").write_bytes(b"PK\x03\x04 nonsense")
    assert "step_0000005.npz is damaged: " in error_of(run_dir)


def test_foreign_arrays_are_told(run_dir):
    np.savez(run_dir / "mixing" / "step_0000005.npz", **{"00.a/sigma": np.ones(3)})
    assert error_of(run_dir).endswith("step_0000005.npz holds 00.a/sigma of shape (3,), which is no mixing value")


def test_folders_and_files_that_are_no_runs(tmp_path):
    assert error_of(tmp_path / "none").startswith(f"no such run: {tmp_path / 'none'} (expected a run folder")
    assert (
        error_of(tmp_path) == f"{tmp_path} holds no run: expected {tmp_path / 'mixing'} or {tmp_path / 'checkpoints'}"
    )
    (tmp_path / "mixing").mkdir()
    assert "neither mixing values nor a checkpoint" in error_of(tmp_path)


def test_the_same_run_is_refused_twice(trained, monkeypatch):
    monkeypatch.chdir(trained.parent)
    assert error_of(trained, "version_0") == f"the same run is given 2 times: {trained} and version_0"


def test_names_are_as_short_as_tells_runs_apart(run_dir, tmp_path):
    others = [tmp_path / "more" / "tiny" / "version_0", tmp_path / "runs" / "tiny" / "version_1"]
    for other in others:
        shutil.copytree(run_dir, other)
    names = [run.name for run in read_runs([str(run_dir), *map(str, others)])]
    assert names == ["runs/tiny/version_0", "more/tiny/version_0", "tiny/version_1"]


def save_state(model, path, **more):
    torch.save({"state_dict": model.state_dict(), **more}, path)


class Blocks(nn.Module):
    def __init__(self, count=2):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"conv": nn.Conv2d(3, 3, 1), "norm": norms.BatchInstanceNorm2d(3)}) for _ in range(count)
        )
        self.last = norms.SwitchableNorm2d(3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(0, 1)


@pytest.mark.parametrize("form", ["bare", "safetensors", "lightning", "compiled", "nested", "legacy"])
def test_checkpoints_of_all_forms_say_the_same(form, tmp_path):
    model = Blocks()
    state = model.state_dict()
    path = tmp_path / ("model.safetensors" if form == "safetensors" else "model.pt")
    if form == "safetensors":
        save_file(state, path)
    elif form == "lightning":
        torch.save({"state_dict": {f"net.{key}": value for key, value in state.items()}, "global_step": 70}, path)
    elif form == "compiled":
        torch.save({f"_orig_mod.module.{key}": value for key, value in state.items()}, path)
    elif form == "nested":
        torch.save({"epoch": 3, "model": state, "optimizer": {"state": {0: {"exp_avg": state["last.bias"]}}}}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "bare")
    run = read(path)
    assert run.steps == [70 if form == "lightning" else 0]
    assert run.frame["layer"].cat.categories.tolist() == ["blocks.0.norm", "blocks.1.norm", "last"]
    assert values_of(run.frame, "blocks.1.norm", "rho") == model.blocks[1]["norm"].rho.tolist()
    assert values_of(run.frame, "last", "var_weight") == model.last.var_weight.softmax(0).tolist()
    assert values_of(run.frame, "last", "gamma") == model.last.weight.tolist()
    assert run.config is None
    assert run.name == f"{tmp_path.name}/{path.name}"


def in_older_names(file, layers):
    """Write a file of mixing values as it was when names began with their depth."""
    with np.load(file) as arrays:
        older = {f"{layers[key.rpartition('/')[0]]}/{key.rpartition('/')[2]}": arrays[key] for key in arrays.files}
    np.savez(file, **older)


def test_layers_of_older_runs_are_called_as_those_of_today(run_dir):
    expected = read(run_dir)
    for file in run_dir.glob("mixing/*.npz"):
        in_older_names(file, {"norm1": "00.norm1", "norm2": "01.norm2"})
    pd.testing.assert_frame_equal(read(run_dir).frame, expected.frame)


def test_numbered_layers_of_an_older_run_are_those_of_its_checkpoint(tmp_path):
    model = Blocks()
    del model.last
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "mixing").mkdir()
    save_state(nn.ModuleDict({"net": model}), tmp_path / "checkpoints" / "last.ckpt", global_step=7)
    gates = {f"0{i}.{i}.norm/rho": block["norm"].rho.detach().numpy() for i, block in enumerate(model.blocks)}
    np.savez(tmp_path / "mixing" / "step_0000005.npz", **gates)
    run = read(tmp_path)
    assert run.notes == ()
    assert run.steps == [5, 7]
    assert run.architecture == {"blocks.0.norm": 3, "blocks.1.norm": 3}
    assert values_of(run.frame, "blocks.1.norm", "rho", 5) == values_of(run.frame, "blocks.1.norm", "rho", 7)


def test_a_run_that_was_begun_when_layers_were_called_otherwise_has_each_layer_once(run_dir):
    expected = read(run_dir)
    in_older_names(run_dir / "mixing" / "step_0000000.npz", {"norm1": "00.0.1", "norm2": "01.1.1"})
    pd.testing.assert_frame_equal(read(run_dir).frame, expected.frame)


def test_a_layer_whose_own_name_begins_with_digits_keeps_them():
    assert names_of_today(["00.a", "01.b"]) == {"00.a": "a", "01.b": "b"}
    for names in (["0.a", "1.b"], ["00.a", "02.b"], ["00.a", "b"], []):
        assert names_of_today(names) == dict(zip(names, names, strict=True))
    many = [f"{depth:03d}.{depth}" for depth in range(101)]
    assert list(names_of_today(many).values()) == [str(depth) for depth in range(101)]


def test_a_single_layer_is_a_network_too(tmp_path):
    save_state(norms.BatchInstanceNorm2d(2), tmp_path / "layer.ckpt")
    assert read(tmp_path / "layer.ckpt").architecture == {"layer": 2}


def test_values_of_half_precision_are_read_exactly(tmp_path):
    layer = norms.BatchInstanceNorm2d(2, dtype=torch.bfloat16)
    nn.init.constant_(layer.rho, 0.3)
    save_state(nn.ModuleDict({"norm": layer}), tmp_path / "half.ckpt")
    assert values_of(read(tmp_path / "half.ckpt").frame, "norm", "rho") == [0.30078125] * 2


def test_the_averaged_generator_of_a_gan_is_not_read_beside_the_live_one(tmp_path):
    gan = GAN(architecture="resnet16", channels=1, norm="batch_instance", latent_dim=4)
    for network, value in ((gan.generator, 0.5), (gan.generator_ema, 0.25)):
        for name, parameter in network.named_parameters():
            if name.endswith("rho"):
                nn.init.constant_(parameter, value)
    save_state(gan, tmp_path / "gan.ckpt")
    run = read(tmp_path / "gan.ckpt")
    assert run.notes == ("without the 5 layers of generator_ema, an averaged copy of the network",)
    rho = run.frame[run.frame["kind"] == "rho"]
    assert len(run.frame["layer"].cat.categories) == 5
    assert set(rho["value"]) == {0.5}


def test_an_average_alone_is_read_and_equal_networks_are_both_read(tmp_path):
    network = Blocks(1)
    alone = nn.ModuleDict({"ema": network})
    save_state(alone, tmp_path / "alone.ckpt")
    assert len(read(tmp_path / "alone.ckpt").architecture) == 2
    twins = nn.ModuleDict({"a_to_b": network, "b_to_a": copy.deepcopy(network)})
    save_state(twins, tmp_path / "twins.ckpt")
    run = read(tmp_path / "twins.ckpt")
    assert list(run.architecture) == [
        "a_to_b.blocks.0.norm",
        "a_to_b.last",
        "b_to_a.blocks.0.norm",
        "b_to_a.last",
    ]
    assert run.notes == ()


@pytest.mark.parametrize(
    ("name", "is_average"), [("ema_model.module", True), ("model_ema", True), ("shadow", True), ("cinema", False)]
)
def test_averages_are_known_by_their_names(name, is_average, tmp_path):
    state = {f"{prefix}.{key}": value for prefix in ("model", name) for key, value in Blocks(1).state_dict().items()}
    torch.save(state, tmp_path / "both.pt")
    run = read(tmp_path / "both.pt")
    assert len(run.architecture) == (2 if is_average else 4)
    assert bool(run.notes) == is_average


def test_a_network_of_other_layers_is_no_copy_whatever_its_name(tmp_path):
    save_state(nn.ModuleDict({"main": Blocks(2), "avg_path": Blocks(3)}), tmp_path / "model.ckpt")
    run = read(tmp_path / "model.ckpt")
    assert len(run.architecture) == 7
    assert run.notes == ()


def test_two_statistics_are_those_of_the_settings(tmp_path):
    layer = norms.SwitchableNorm2d(2, statistics=("instance", "batch"))
    nn.init.zeros_(layer.mean_weight)
    model = nn.ModuleDict({"norm": layer})
    path = tmp_path / "two.ckpt"
    save_state(model, path, hyper_parameters={"norm_options": {"statistics": ["batch", "instance"]}})
    assert values_of(read(path).frame, "norm", "mean_weight") == [0.5, 0, 0.5]
    save_state(model, path)
    assert error_of(path) == f"{path}: layer norm: a switchable norm mixes 2 statistics, and does not say which"


def test_two_statistics_without_running_ones_are_not_those_of_the_batch(tmp_path):
    layer = norms.SwitchableNorm2d(2, statistics=("instance", "layer"))
    nn.init.zeros_(layer.var_weight)
    save_state(nn.ModuleDict({"norm": layer}), tmp_path / "two.ckpt")
    assert values_of(read(tmp_path / "two.ckpt").frame, "norm", "var_weight") == [0.5, 0.5, 0]


def test_sparse_weights_are_effective_ones(tmp_path):
    layer = norms.SwitchableNorm2d(2, sparse_steps=10)
    with torch.no_grad():
        layer.mean_weight.copy_(torch.tensor([1.0, 1.3, 0.9]))
        layer.radius.fill_(0.6)
    save_state(nn.ModuleDict({"norm": layer}), tmp_path / "sparse.ckpt")
    weights = values_of(read(tmp_path / "sparse.ckpt").frame, "norm", "mean_weight")
    assert weights == layer.mixing_values()["mean_weight"].tolist()
    assert weights != layer.mean_weight.softmax(0).tolist()


class Gate(nn.Module):
    def forward(self, values):
        return values.sigmoid()


@pytest.mark.parametrize(
    ("norm", "kind"),
    [(norms.BatchInstanceNorm2d, "rho"), (norms.SwitchableNorm2d, "var_weight")],
    ids=["rho", "switch"],
)
def test_parametrized_values_are_told_of_since_their_code_is_unknown(norm, kind, tmp_path):
    model = nn.Sequential(norms.BatchInstanceNorm2d(3), nn.ModuleDict({"norm": norm(3)}))
    nn.utils.parametrize.register_parametrization(model[1]["norm"], kind, Gate())
    save_state(model, tmp_path / "gated.ckpt")
    save_state(model[1]["norm"], tmp_path / "alone.ckpt")
    for name, layer in (("gated.ckpt", "1.norm"), ("alone.ckpt", "")):
        told = error_of(tmp_path / name)
        assert f"layer {layer}: its {kind} is parametrized by code that no checkpoint has: read it by norms." in told


def test_a_gamma_of_each_condition_is_none_of_the_layers(tmp_path):
    model = nn.ModuleDict({"norm": norms.ConditionalNorm(norms.BatchInstanceNorm2d(3, affine=False), 4)})
    save_state(model, tmp_path / "conditional.ckpt")
    run = read(tmp_path / "conditional.ckpt")
    assert set(run.frame["kind"]) == {"rho"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"nonsense", "is not a readable checkpoint"),
        (b"", "is not a readable checkpoint"),
        ([1, 2], "is not a checkpoint: it holds a list"),
        ({"epoch": 3}, "holds no layer that learns how to normalize: none of its 0 tensors"),
        ({"block.rho": torch.ones(1, 4, 1, 1)}, "holds no layer that learns how to normalize"),
        ({"block.mean_weight": torch.ones(4)}, "holds no layer that learns how to normalize"),
        ({"model": nn.Linear(1, 1)}, "holds more than tensors and plain values"),
    ],
    ids=["nonsense", "empty", "list", "no tensors", "another program's rho", "another program's weight", "objects"],
)
@pytest.mark.parametrize("name", ["foreign.ckpt", "foreign.pt"])
def test_foreign_checkpoints_are_told(content, reason, name, tmp_path):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    message = error_of(path)
    assert message.startswith(str(path))
    assert reason in message


def test_a_broken_safetensors_file_is_told(tmp_path):
    path = tmp_path / "x.safetensors"
    reasons = {b"12345678nonsense": "it is cut off, damaged or no file of safetensors", b"": "it is empty"}
    for content, reason in reasons.items():
        path.write_bytes(content)
        assert error_of(path) == f"{path} is not a readable checkpoint: {reason}"


def test_a_checkpoint_that_was_cut_off_is_told(run_dir):
    path = run_dir / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "last.ckpt is not a readable checkpoint: " in error_of(path)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array(["0.5", "1"]), "of type <U3, which is no mixing value"),
        (np.array([0.5, np.nan]), "with values that are not finite: its training went wrong"),
        (np.array([0.5, -np.inf]), "with values that are not finite: its training went wrong"),
        (np.array([True, False]), "of type bool, which is no mixing value"),
        (np.array([0.5, 1j]), "of type complex128, which is no mixing value"),
    ],
)
def test_arrays_that_hold_no_numbers_are_told(array, reason, run_dir):
    np.savez(run_dir / "mixing" / "step_0000005.npz", **{"norm1/rho": array})
    assert error_of(run_dir).endswith(f"step_0000005.npz holds norm1/rho {reason}")


@pytest.mark.parametrize("save", [np.save, lambda path, array: np.save(path, array, allow_pickle=True)])
def test_a_file_that_is_no_archive_of_arrays_is_told(save, run_dir):
    path = run_dir / "mixing" / "step_0000005.npz"
    with path.open("wb") as stream:
        save(stream, np.array([object()] if save is not np.save else [1.0]))
    assert "step_0000005.npz is damaged: " in error_of(run_dir)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_a_checkpoint_whose_values_are_not_finite_is_told(dtype, tmp_path):
    model = nn.ModuleDict({"a": norms.SwitchableNorm2d(2), "b": norms.BatchInstanceNorm2d(2)})
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "some.ckpt")
    assert set(read(tmp_path / "some.ckpt").frame["kind"]) == {"rho", "mean_weight", "var_weight", "gamma"}
    state["b.rho"] = torch.full((2,), torch.nan).to(dtype)
    torch.save({"state_dict": state}, tmp_path / "some.ckpt")
    assert error_of(tmp_path / "some.ckpt").endswith("b/rho with values that are not finite: its training went wrong")

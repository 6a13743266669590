"""The benchmarks of the norms run, and compare layers with formulas that say the same."""

import importlib.util
import json
import logging
import re
import sys
from pathlib import Path

import pytest
import torch

import norms


def load(name):
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_of_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark():
    return load("norms")


@pytest.mark.parametrize(
    ("textbook", "ours"),
    [
        ("textbook batch-instance", lambda: norms.BatchInstanceNorm2d(4)),
        ("textbook switchable", lambda: norms.SwitchableNorm2d(4)),
        ("textbook batch renorm", lambda: norms.BatchRenorm2d(4, schedule_steps=0)),
    ],
)
def test_textbook_formulas_say_what_the_layers_say(textbook, ours, benchmark):
    torch.manual_seed(0)
    theirs, ours = benchmark.LAYERS[textbook](4).double(), ours().double()
    for name, parameter in ours.named_parameters():
        values = torch.rand_like(parameter)
        for layer in (theirs, ours):
            own = layer.get_parameter(name)
            own.data.copy_(values.reshape(own.shape))
    for scale in (1, 4, 0.1):
        x = torch.randn(3, 4, 5, 6, dtype=torch.float64) * scale + 1
        torch.testing.assert_close(theirs(x), ours(x))
    for layer in (theirs, ours):
        layer.eval()
    torch.testing.assert_close(theirs(x), ours(x))


def test_it_runs(benchmark, monkeypatch, tmp_path):
    file = tmp_path / "norms.md"
    arguments = ["--quick", "--shapes", "2x4x3x3", "3x2x3x3", "--threads", "1", "--markdown", str(file)]
    layers = ["norms.SwitchableNorm2d", "nn.GroupNorm", "textbook batch renorm"]
    monkeypatch.setattr(sys, "argv", ["benchmarks/norms.py", *arguments, "--norms", *layers])
    threads = torch.get_num_threads()
    try:
        benchmark.main()
    finally:
        torch.set_num_threads(threads)
    written = file.read_text()
    assert "    python benchmarks/norms.py --quick" in written
    assert f"torch {torch.__version__}" in written
    tables = written.split("\n## ")[1:]
    assert len(tables) == 3 * 2 + 1
    for table in tables[:-1]:
        assert "| layer | 2x4x3x3 | 3x2x3x3 |" in table
        assert [row.split(" | ")[0] for row in table.splitlines()[4:]] == [
            "| nn.BatchNorm2d takes",
            "| nn.InstanceNorm2d takes",
            *(f"| {x}" for x in layers),
        ]
    # For each of two small shapes in two layouts: forward and backward, and evaluation.
    assert "of 8 targets are reached." in written


def setting(benchmark, shape, **changes):
    return benchmark.Setting(
        **{"device": "cpu", "dtype": "float32", "compiled": False, "threads": 1, "layout": "nchw", **changes},
        shape=shape,
    )


@pytest.mark.parametrize(
    ("layer", "measure", "changes", "shape", "to_batch", "to_instance"),
    [
        ("norms.SwitchableNorm2d", "forward + backward", {}, (4, 128, 64, 64), 1.2, 1.0),
        ("norms.BatchRenorm2d", "forward", {}, (4, 128, 64, 64), None, None),
        ("norms.BatchInstanceNorm2d", "evaluation", {}, (4, 128, 64, 64), None, 1.1),
        ("norms.BatchInstanceNorm2d", "forward + backward", {}, (8, 16, 32, 32), 2.5, None),
        ("norms.BatchInstanceNorm2d", "evaluation", {}, (8, 16, 32, 32), None, 1.1),
        ("norms.BatchInstanceNorm2d", "forward", {"compiled": True}, (8, 16, 32, 32), 1.0, None),
        ("norms.BatchInstanceNorm2d", "forward + backward", {"device": "cuda"}, (8, 16, 32, 32), 1.1, None),
        ("norms.BatchInstanceNorm2d", "forward", {"device": "cuda"}, (8, 16, 32, 32), None, None),
        ("nn.GroupNorm", "forward + backward", {}, (4, 128, 64, 64), None, None),
    ],
)
def test_a_figure_that_misses_its_target_says_so(layer, measure, changes, shape, to_batch, to_instance, benchmark):
    def cell(ratio):
        place = setting(benchmark, shape, **changes)
        return benchmark.Cell(place, layer, measure, ratio, ratio, ratio, 1.0, ratio, 1.0, None)

    targets = [to_batch, to_instance]
    assert [cell(9).target, cell(9).instance_target] == targets
    missed = ["" if target is None else f" > {target}" for target in targets]
    assert str(cell(9)) == f"9.00 (9.00-9.00){missed[0]} / 9.00{missed[1]}"
    assert cell(9).hits == [False] * (2 - targets.count(None))
    assert all(cell(0.1).hits)
    assert str(cell(0.1)) == "0.10 (0.10-0.10) / 0.10"


def test_large_tensors_on_a_gpu_have_a_target_for_bandwidth(benchmark):
    def cell(shape):
        place = setting(benchmark, shape, device="cuda")
        return benchmark.Cell(place, "norms.SwitchableNorm2d", "forward", 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5)

    assert str(cell((64, 256, 56, 56))) == "1.00 (1.00-1.00) / 1.00, 50% < 80%"
    assert str(cell((8, 16, 32, 32))) == "1.00 (1.00-1.00) / 1.00, 50%"


def test_saved_bytes_count_a_storage_once(benchmark):
    shape = (2, 4, 8, 8)
    size = 4 * 2 * 4 * 8 * 8
    assert size <= benchmark.saved_bytes("nn.BatchNorm2d", shape) < 1.1 * size
    assert benchmark.saved_bytes("textbook switchable", shape) > 2.9 * size


@pytest.fixture(scope="module")
def steps():
    return load("steps")


def test_steps_of_each_norm_are_measured_and_reported(steps, monkeypatch, tmp_path):
    file = tmp_path / "steps.md"
    arguments = ["--quick", "--runs", "default GAN", "--norms", "switchable", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["benchmarks/steps.py", *arguments, "--markdown", str(file)])
    threads, logger = torch.get_num_threads(), logging.getLogger("pytorch_lightning")
    level = logger.level
    try:
        steps.main()
    finally:
        torch.set_num_threads(threads)
        logger.setLevel(level)
    written = file.read_text()
    assert "    python benchmarks/steps.py --quick" in written
    assert [row.split(" | ")[0] for row in written.splitlines()[-2:]] == ["| batch", "| switchable"]
    assert written.splitlines()[-2].split(" | ")[2].startswith("1.000 (1.000-1.000)")


def test_a_step_that_misses_its_target_says_so(steps):
    def ratio(norm, value):
        return steps.Row(norm, 0.5, value, value, value, 0.01).cells()[2]

    assert ratio("switchable", 1.2) == "1.200 (1.200-1.200) > 1.05"
    assert ratio("switchable", 1.05) == "1.050 (1.050-1.050)"
    assert ratio("instance", 1.2) == "1.200 (1.200-1.200)"
    assert steps.Row("instance", 0.5, 1, 1, 1, 0.01).cells()[3] == "2.0%"


def test_the_calls_of_norms_are_noted_and_nothing_else(steps):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), norms.BatchInstanceNorm2d(4), torch.nn.GroupNorm(2, 4))
    watch = steps.Stopwatch()
    watch.watch(module)
    module(torch.randn(2, 3, 5, 5))
    assert [(layer, tuple(shape), graded) for layer, shape, graded in watch.calls] == [
        (layer, (2, 4, 5, 5), True) for layer in module[1:]
    ]
    assert steps.time_alone(list(watch.calls), 1) > 0


@pytest.mark.slow
def test_the_plain_loop_of_the_training_benchmark_has_the_losses_of_the_module(monkeypatch, tmp_path):
    training = load("training")
    arguments = ["--quick", "--image-size", "32", "--batch-size", "2", "--steps", "3", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["benchmarks/training.py", *arguments])
    options, weights = training._parse(), tmp_path / "vgg16.pth"
    with torch.device("meta"):
        network = training.vgg16().features
    keyed = torch.Generator().manual_seed(0)
    state = {name: 0.05 * torch.randn(value.shape, generator=keyed) for name, value in network.state_dict().items()}
    torch.save(state, weights)
    plain = training.train_plainly(options, weights)
    assert len(plain.seconds) == 3
    assert plain.losses[0] > 0
    for way in ("as it is", "channels_last"):
        assert training.train(options, way, weights).losses == pytest.approx(plain.losses, rel=1e-3)


def test_the_stylizing_benchmark_measures_a_way_and_writes_tables(monkeypatch, capsys):
    stylizing = load("stylizing")
    stylizing.measure_here("bundled", 80, "naive")
    seconds, megabytes = json.loads(capsys.readouterr().out)
    assert seconds > 0
    assert megabytes > 100
    monkeypatch.setattr(sys, "argv", ["benchmarks/stylizing.py", "--quick"])
    written = stylizing.report({"Sizes": (("longer side", "way"), [("80", "naive")])}, threads=1)
    assert written.endswith("## Sizes\n\n| longer side | way |\n| --- | --- |\n| 80 | naive |\n")
    assert "    python benchmarks/stylizing.py --quick" in written


@pytest.mark.slow
def test_the_benchmark_of_gans_times_both_ways_and_writes_what_it_found(monkeypatch, tmp_path):
    gan, file = load("gan"), tmp_path / "gan.md"
    small = ["--architecture", "cnn28", "--channels", "1", "--batch-size", "2", "--rounds", "1", "--steps", "2"]
    monkeypatch.setattr(sys, "argv", ["benchmarks/gan.py", *small, "--threads", "1", "--markdown", str(file)])
    monkeypatch.setenv("WANDB_MODE", "disabled")
    before, threads = Path.cwd(), torch.get_num_threads()
    try:
        gan.main()
    finally:
        torch.set_num_threads(threads)
    assert Path.cwd() == before
    written = file.read_text()
    assert re.search(r"plain loop \d+ ms, train\.py \d+ ms, \d\.\d+ times as long", written)
    assert "    python benchmarks/gan.py --architecture cnn28" in written
    assert re.search(r"On .+, \d+ cores, 1 thread, on cpu, with load", written)


def test_the_benchmark_of_the_input_reads_the_same_images_from_zip_and_shards(monkeypatch, tmp_path):
    module = load("input")
    monkeypatch.setattr(module, "LARGE", (400, 300))
    kinds = {name: module.SOURCES[name] for name in module.SOURCES if "zip" in name or "Shards" in name}
    monkeypatch.setattr(module, "SOURCES", kinds)
    monkeypatch.setattr(sys, "argv", ["input.py", "--files", "20", "--workers", "0", "--rounds", "1", "--seconds", "0"])
    rows = module.read(module._parse(), tmp_path)
    assert [name for name, _ in rows] == list(kinds)
    assert all(float(rate.replace(",", "")) > 0 for _, rate in rows)
    zipped, sharded = (kind(tmp_path, 0) for kind in kinds.values())
    means = []
    for data in (zipped, sharded):
        data.setup()
        images = data.train_images()
        means.append({float(images[place]["image"].mean()) for place in range(len(images))})
    assert [len(each) for each in means] == [18, 18]
    assert len(means[0] & means[1]) >= 16  # others are held out


def test_the_benchmark_of_the_input_weighs_waits_and_leaves_out_the_first_steps(monkeypatch, tmp_path):
    module = load("input")

    def train(command, **_):
        assert "--trainer.max_steps=8" in command
        waits = [9.0] * module.WARM_UP + [0.01, 0.02, 0.03]
        durations = {"[_TrainingEpochLoop].train_dataloader_next": waits}
        durations["run_training_batch"] = [99.0] * module.WARM_UP + [0.1, 0.2, 0.24]
        profiler = module.Durations()
        profiler.recorded_durations.update(durations)
        (tmp_path / "fit-gan.txt").write_text(profiler.summary())

    monkeypatch.setattr(module.subprocess, "run", train)
    assert module.waits("gan", 3, tmp_path, []) == (0.02, 0.2, pytest.approx(0.06 / 0.6))
    monkeypatch.setattr(sys, "argv", ["input.py", "--configs", "gan", "--steps", "3"])
    assert module.wait(module._parse(), tmp_path) == [("gan", "20.00 ms", "200.0 ms", "10.00% > 3%")]


def test_the_benchmark_of_growth_shows_medians_beside_the_ideal(monkeypatch, tmp_path):
    growth = load("growth")
    results, page, figure = (tmp_path / name for name in ("all.jsonl", "growth.md", "growth.svg"))
    results.write_text(
        "".join(
            json.dumps({"axis": axis, "value": value, "seconds": seconds, "megabytes": 10}) + "\n"
            for axis, value, seconds in [
                ("style-resolution", 64, 0.3),
                ("style-resolution", 32, 0.1),
                ("style-resolution", 32, 0.4),
                ("style-resolution", 32, 0.2),
                ("switchable", 0, 0.5),
                ("switchable", 1, 0.6),
            ]
        )
    )
    arguments = ["--axes", "--results", str(results), "--figure", str(figure), "--markdown", str(page)]
    monkeypatch.setattr(sys, "argv", ["benchmarks/growth.py", *arguments])
    growth.main()
    assert (
        "| 32 | 200.0 ms | 10 MB | 1.00 | 1.00 | 1 |\n| 64 | 300.0 ms | 10 MB | 1.50 | 1.00 | 4 |" in page.read_text()
    )
    assert "| 1 | 600.0 ms | 10 MB | 1.20 | 1.00 | 1 |" in page.read_text()
    assert "![](growth.svg)" in page.read_text()
    assert "</svg>" in figure.read_text()


def test_the_benchmark_of_growth_builds_what_its_axes_say():
    growth = load("growth")
    for name, axis in growth.AXES.items():
        if axis.build is not None:
            module, batch = axis.build(axis.values[1])
            kinds = [type(layer) for layer in module.modules()]
            expected = {"batch_instance": norms.BatchInstanceNorm2d, "switchable": norms.SwitchableNorm2d}.get(name)
            assert expected is None or kinds.count(expected) == axis.values[1]
            assert len(batch["image"]) == (
                axis.values[1] if name.endswith("-batch") else 4 if "GAN" not in axis.label else 16
            )
    assert growth.style(styles=4)[0].hparams["styles"] is not None

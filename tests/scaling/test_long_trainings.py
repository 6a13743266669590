"""A long training: nothing that a step does grows with the steps before it, and the benchmark would see it."""

import gc
import re
import shutil
import tracemalloc
from pathlib import Path

import pytest
import stand_ins
import tiny_gan
from pytorch_lightning import Callback
from test_benchmarks import load

import norms
from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.generation_metrics import GenerationMetrics
from training.callbacks.guard import Guard
from training.callbacks.mixing import MixingValues
from training.callbacks.samples import SampleImages
from training.callbacks.spectral import SpectralMonitor
from training.metrics_file import MetricsFile

IO = Path("/proc/self/io")
PAST = 2_000_000


@pytest.fixture(scope="module")
def report():
    return load("soak_report")


def networks(channels, latent_dim, norm, norm_options=None):
    generator, discriminator = tiny_gan.networks(channels, latent_dim, norm, norm_options)
    generator.norm = norms.build("batch_instance", channels)
    return generator, discriminator


class Notes(Callback):
    """Make the tables as long as a long past does, and note what is read, written and kept after that."""

    def __init__(self, folder):
        self.folder = folder
        self.bytes, self.objects = {}, {}

    def on_train_batch_start(self, trainer, *_):
        step = trainer.global_step
        if step == 10:
            for name in ("metrics.csv", "spectral.csv"):
                columns = (self.folder / name).read_text().splitlines()[0].count(",")
                with (self.folder / name).open("a") as file:
                    file.write(f"9{',0.5' * columns}\n" * (PAST // columns // 4))
        if step in (25, 45, 65):
            gc.collect()
            self.objects[step] = len(gc.get_objects())
            counts = dict(line.split(": ") for line in IO.read_text().splitlines())
            self.bytes[step] = int(counts["rchar"]) + int(counts["wchar"])


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    if not IO.is_file():
        pytest.skip("only Linux counts the bytes that a process reads and writes")
    folder = tmp_path_factory.mktemp("run")
    noting = Notes(folder)
    callbacks = [noting, Guard(every_n_steps=5), MixingValues(5), SampleImages(20), GenerationMetrics()]
    callbacks += [SpectralMonitor(5), RunCheckpoint(20, monitor="val/d_real")]
    settings = {"max_steps": 66, "val_check_interval": 20, "log_every_n_steps": 5, "limit_val_batches": 1}
    stand_ins.fit(folder, callbacks, tiny_gan.gan(architecture=networks), data=tiny_gan.Blots(), **settings)
    return noting


def test_a_step_reads_and_writes_no_more_the_longer_the_tables_are(notes):
    # A new column has a table written anew; the first validation has brought the last one. Four looks are in between.
    assert notes.bytes[45] - notes.bytes[25] < PAST / 4
    assert notes.bytes[65] - notes.bytes[45] < PAST / 4
    assert (notes.folder / "spectral.csv").stat().st_size > PAST / 2
    assert (notes.folder / "metrics.csv").stat().st_size > PAST / 2


def test_steps_leave_nothing_behind_in_memory(notes):
    assert notes.objects[65] - notes.objects[45] < 20, "fewer than one for each step"


def test_a_long_table_is_resumed_without_being_in_memory(tmp_path):
    table = tmp_path / "metrics.csv"
    table.write_text("step,loss,val\n" + "".join(f"{step},0.5,\n" for step in range(5000)))
    tracemalloc.start()
    try:
        file = MetricsFile(table)
        file.keep_before(4000)
        file.log_metrics({"new": 1.0}, 4000)
        file.save()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    lines = table.read_text().splitlines()
    assert lines[0] == "step,loss,new,val"
    assert lines[1:] == [*(f"{step},0.5,," for step in range(4000)), "4000,,1.0,"]
    assert peak < 500_000, "5,000 rows are 1.5 MB"


def test_growth_is_that_of_a_straight_line_whatever_else_is_in_it(report):
    steps = range(1000, 2001, 10)
    assert report.growth(steps, [3.0] * len(steps)) == (0, 0, 0)
    # From 10 to 12, around 11, with a spike in every window.
    line = [10 + 2 * (step - 1000) / 1000 + 50 * (step % 100 == 0) for step in steps]
    assert report.growth(steps, line)[0] == pytest.approx(2 / 11, rel=0.02)
    assert report.growth(steps, line[::-1])[0] == pytest.approx(-2 / 11, rel=0.02)


def test_the_benchmark_tells_of_a_training_and_of_what_grows_in_it(report, tmp_path, monkeypatch):
    soak = load("soak")
    monkeypatch.setattr(soak, "EVERY", 15)
    monkeypatch.setenv(soak.STARTED, "0")
    watch = soak.Watch(str(tmp_path / "tiny-1"))
    stand_ins.fit(tmp_path / "run", [watch, RunCheckpoint(20)], max_steps=60, val_check_interval=20)
    for path in tmp_path.glob("tiny-1.*"):
        for part in (0, 2, 3):
            shutil.copy(path, tmp_path / f"tiny-{part}{path.suffix}")
    found = report.series(tmp_path / "tiny-1")
    steps, threads = found["threads"]
    assert steps == [0, 15, 30, 45, 60]
    assert threads[-1] >= 1
    counted = [24, 30, 31, 45, 46, 54]
    plain = [step for step in range(20, 59) if step % 10 != 9 and step != 50]
    assert found["plain step, ms of the processor"][0] == [step for step in plain if step not in counted]
    assert found["plain step, function calls"][0] == counted
    assert min(found["plain step, function calls"][1]) > 500
    found["threads"] = steps, [number + 10 * step for step, number in zip(*found["threads"], strict=True)]
    verdicts = {row[0]: row[-1] for row in report.flatness(found, 30)}
    assert verdicts["threads"] == "**grows**"
    assert verdicts["child processes"] == "flat"
    (rows,) = (row for row in report.files(report.read(tmp_path / "tiny-1")[0]) if row[0] == "metrics.csv")
    table = (tmp_path / "run" / "metrics.csv").read_text().splitlines(keepends=True)
    written = [len(line) for line in table[1:] if 30 < int(line.split(",")[0]) <= 45]
    assert float(rows[3]) == pytest.approx(sum(written) / 15, rel=0.2)
    written = ["--markdown", str(tmp_path / "a.md"), "--figure", str(tmp_path / "a.svg")]
    monkeypatch.setattr("sys.argv", ["soak_report.py", "--folder", str(tmp_path), *written])
    monkeypatch.chdir(tmp_path)  # where checkpoints are timed
    report.main()
    assert "![Memory, counts, times and files over the steps](a.svg)" in (tmp_path / "a.md").read_text()
    assert (tmp_path / "a.svg").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("growth", "told"),
    [
        ((0.01, -0.1, 0.1), "flat"),
        ((-0.07, -0.14, 0.02), "not told from noise"),
        ((0.03, -0.1, 0.2), "not told from noise"),
        ((-0.15, -0.3, -0.02), "falls"),
        ((0.15, 0.02, 0.3), "**grows**"),
    ],
)
def test_what_noise_may_have_made_neither_grows_nor_falls(report, growth, told):
    assert report.verdict(*growth) == told


def test_the_page_has_the_figures_of_the_benchmark():
    root = Path(__file__).parents[2]
    page, tables = ((root / name).read_text() for name in ("docs/guides/scaling.md", "benchmarks/soak.md"))
    rows = [line.strip("| ").split(" | ") for line in tables.splitlines()]
    (written, read) = next(row[1:] for row in rows if row[0] == "100 MB")
    told = re.search(r"one of 100 MB was written in (\S+) to \S+ s, .* and checked and read in (\S+) to", page)
    assert [float(figure) for figure in told.groups()] == pytest.approx(
        [float(written[:-2]), float(read[:-2])], abs=0.06
    )
    for what, name in (("W&B: history", "W&B's history"), ("metrics.csv", "`metrics.csv`")):
        told = re.search(rf"\| {re.escape(name)} \| (\d+) and (\d+) \|", page)
        expected = [float(row[4]) for row in rows if row[0] == what]
        assert [float(figure) for figure in told.groups()] == pytest.approx(expected, abs=0.6)

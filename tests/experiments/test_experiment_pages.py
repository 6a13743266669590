"""Pages as Markdown, the index of their claims, and the command that makes them."""

import re
import shutil

import pytest
import yaml
from made_sweeps import MACHINE, write_grid, write_run, write_sweep
from pandas import DataFrame

from experiments import catalog, command, plots, summaries
from experiments.catalog import CONFIGS, Experiment
from experiments.making import _settle, make, write_index
from experiments.markdown import TIME, read_front_matter, table
from experiments.page import Claim, Figure, Page, Table
from experiments.verdicts import HOLDS, paired
from sweeping.commands import command_of
from sweeping.runner import Runner
from sweeping.runs import read_runs
from sweeping.sweep_file import read_sweep
from training.command import main

STOP = {"step": 20, "sign": "not_finite", "action": "stop", "reason": "train/loss (nan) is not finite"}


def page(runs):
    last = runs.last("val/accuracy")
    effect = paired(last, "norm", "none", "batch", "val/accuracy")
    claim = Claim("It | helps.", "A 2015", "+3 %", effect.text("+.2f"), effect.verdict(1), "accuracy, paired by seed")
    figure, (left, right) = plots.panels(2)
    plots.curves(left, runs.curves("val/accuracy"), "norm")
    plots.points(right, last, "norm", "val/accuracy")
    rows = summaries.summary(last, ["norm"], {"val/accuracy": ".2f"})
    shown = Figure("curves", figure, "Accuracy over steps.", "Two curves")
    return Page("Made up", "Does it help?", [claim], [shown], [Table(rows, "Means.")], ["It is made up."])


def accuracy(settings):
    return 0.5 + (0.3 + 0.02 * settings["seed"]) * (settings["model.norm"] == "batch") + 0.01 * settings["seed"]


@pytest.fixture
def made(tmp_path):
    file, sweep = write_sweep(tmp_path)
    return Experiment("made", (file,), page), sweep


def made_page(experiment, folder, overrides=()):
    assert make(experiment, folder / "runs", folder / "docs", overrides, 0, "again") == 0
    return (folder / "docs/made.md").read_text()


def test_a_finished_run_of_which_nothing_is_left_is_trained_again(made, tmp_path):
    _, sweep = made
    write_grid(tmp_path, sweep, accuracy)
    shutil.rmtree(tmp_path / "made/002-made/version_0")
    assert not _settle(Runner(sweep, tmp_path))
    assert [run.state for run in read_runs(tmp_path / "made")] == ["finished", "begun", *["finished"] * 4]


def test_a_page_has_its_parts_in_order_and_its_numbers(made, tmp_path):
    experiment, sweep = made
    write_grid(tmp_path / "runs", sweep, accuracy)
    text = made_page(experiment, tmp_path)
    headings = [
        "# Made up",
        "## Claims and verdicts",
        "## The numbers",
        "## How it was run",
        "## What it cannot say",
        TIME,
    ]
    assert re.findall(r"^#+ .*", text, re.MULTILINE) == headings
    assert "| 1. | It \\| helps. (A 2015) | +3 % | +0.32 (95 % interval +0.27 to +0.37), 3 seeds |" in text
    assert f"| ✓ **{HOLDS}** |" in text
    assert "1. accuracy, paired by seed" in text
    assert "![Two curves](made-curves.svg)\n\n*Accuracy over steps.*" in text
    assert "| none | 0.51 ± 0.01 (n=3) |" in text
    assert "| `made` | norm: none, batch | 3 | 6 | 100 | 64 | Classifier | BundledDigits |" in text
    assert "```bash\npython -m experiments made\n```" in text
    assert "fit --config classifier --model.norm=none --seed=0" in text
    assert f"trained on {MACHINE}" in text
    assert "6 trainings took 6 min 0 s one after another, 1 min 0 s each." in text
    assert "missing:" in text
    assert "runs are missing" not in text


def test_a_page_tells_of_what_is_missing_has_diverged_or_was_overridden(made, tmp_path):
    experiment, sweep = made
    words = ["--trainer.max_steps", "10"]
    for number, settings in enumerate(list(sweep.grid())[:4], 1):
        rows = [{"step": 1, "val/accuracy": 0.5}]
        write_run(tmp_path / "runs", sweep, number, settings, rows, events=[STOP] * (number == 4), overrides=words)
    text = made_page(experiment, tmp_path)
    assert "!!! warning\n    2 of 6 runs are missing" in text
    assert "1 of 4 trainings diverged: norm batch (1)." in text
    assert "python -m experiments made -- --trainer.max_steps 10\n" in text
    assert "not decided at this scale" in text
    assert "no seed of 3 has both numbers" in text


def test_equal_runs_make_equal_files_but_for_the_time(made, tmp_path):
    experiment, sweep = made
    texts, pictures = [], []
    for name, seconds in (("first", 60.0), ("second", 90.0)):
        for number, settings in enumerate(sweep.grid(), 1):
            rows = [{"step": 1, "val/accuracy": accuracy(settings)}]
            write_run(tmp_path / name / "runs", sweep, number, settings, rows, seconds=seconds)
        texts.append(made_page(experiment, tmp_path / name))
        pictures.append((tmp_path / name / "docs/made-curves.svg").read_bytes())
    assert pictures[0] == pictures[1]
    assert texts[0] != texts[1]
    same = [re.sub(r"^minutes: .*", "", text.partition(TIME)[0], flags=re.MULTILINE) for text in texts]
    assert same[0] == same[1]


def test_the_index_lists_the_claims_of_all_pages(made, tmp_path):
    experiment, sweep = made
    write_grid(tmp_path / "runs", sweep, accuracy)
    made_page(experiment, tmp_path)
    (tmp_path / "docs/other.md").write_text("# No experiment\n")
    text = write_index(tmp_path / "docs").read_text()
    assert "Of 1 claim, ✓ 1 holds at this scale." in text
    assert "## [Made up](made.md)" in text
    assert "| 1. | It \\| helps. (A 2015) | +3 % |" in text
    assert text.count("\n## [") == 1
    assert read_front_matter(tmp_path / "docs/made.md")["minutes"] == 6.0


def test_cells_of_tables():
    rows = DataFrame({"a": ["x|y", None], "b": [0.123456, float("nan")]})
    dash = "\N{EN DASH}"
    assert table(rows).splitlines() == ["| a | b |", "|---|---:|", "| x\\|y | 0.1235 |", f"| {dash} | {dash} |"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["mad"], "unknown experiment 'mad', did you mean 'made'?"),
        (["made", "--no-training"], "no run of made was trained to its end in"),
        ([], "name an experiment; --list says which there are"),
        (["made", "--workers", "0"], "workers: must be above 0"),
        (["--trainig"], "unknown option"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments, error, made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalog, "names", lambda: ["made"])
    monkeypatch.setattr(catalog, "import_module", lambda name: type("Module", (), {"page": page}))
    monkeypatch.setattr(catalog, "CONFIGS", tmp_path)
    assert command.main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert error in told
    assert told.count("\n") == 1


def test_the_pages_there_are_have_sweeps_and_each_sweep_of_a_page_its_name():
    for name in catalog.names():
        for file in catalog.experiment(name).sweeps:
            assert read_sweep(file).name == file.stem


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_train_takes_the_first_command_of_each_sweep(file, capsys):
    sweep = read_sweep(file)
    words = command_of(sweep, next(sweep.grid()))
    assert words[:3] == ["python", "train.py", "fit"]
    assert main([*words[2:], "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]

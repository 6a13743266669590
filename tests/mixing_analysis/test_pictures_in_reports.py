"""Pictures in what analyze.py writes: whose they are, where they go, and what is said where there are none."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from test_binarized import SingleNorm, run_of
from torch import nn

from mixing_analysis import pictures
from mixing_analysis.command import main

TRUST = ("--trust", "test_binarized", "--trust", "stand_ins", "--batches", "2")


def write_run(name, seed=0, **config):
    """Write the folder of a run of one layer."""
    folder = Path("runs", name)
    (folder / "checkpoints").mkdir(parents=True)
    torch.manual_seed(seed)
    model = SingleNorm()
    nn.init.uniform_(model.norm.rho)
    run = run_of(model, folder / "checkpoints", **config)
    (folder / "config.yaml").write_text(yaml.safe_dump({**run.config, "seed_everything": seed}))


@pytest.fixture(autouse=True)
def _working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)


def analyze(capsys, *arguments):
    assert main([*arguments, *TRUST]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def shown():
    text = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', Path("report/report.html").read_text()
    )
    return json.loads(text[1])["pictures"]


def test_a_run_has_pictures_in_the_page_and_as_files(capsys):
    write_run("one")
    out = analyze(capsys, "runs/one", "--format", "html,png")
    (own,) = shown()
    assert [version["name"] for version in own["versions"]] == ["learned", "binarized", "batch", "instance"]
    files = sorted(path.name for path in Path("report/pictures").iterdir())
    # A network of a single layer is called by nothing but its folder.
    assert len(files) == 5 + len(own["channels"]) == 6
    assert {f"{own['run'].replace('/', '_')}_{name}.png" for name in ("given", "learned", "batch")} < {*files}
    assert "wrote report/pictures: 6 files\n" in out
    evaluated = re.search(r"val/score +recalibrated +(\S+) +(\S+)", out)
    scores = [f"{version['scores']['val/score']:.4g}" for version in own["versions"][:2]]
    assert [*evaluated.groups()] == scores, "the table and the pictures tell the same"


def test_without_evaluation_there_are_none(capsys):
    write_run("one")
    analyze(capsys, "runs/one", "--no-evaluation", "--format", "html,png")
    assert shown() == []
    assert not Path("report/pictures").exists()


def test_nor_where_neither_the_page_nor_files_are_asked_for(capsys, monkeypatch):
    write_run("one")
    monkeypatch.setattr(pictures, "make", None)
    analyze(capsys, "runs/one", "--format", "csv")


def test_they_are_of_the_first_run_of_a_group_and_of_no_more_than_a_few(capsys, monkeypatch):
    monkeypatch.setattr(pictures, "RUNS", 2)
    for name, options in {"a": 2, "b": 3, "c": 4}.items():
        for seed in range(2):
            write_run(f"{name}{seed}", seed, data_options={"batch_size": options})
    out = analyze(capsys, *(f"runs/{name}{seed}" for name in "abc" for seed in range(2)), "--format", "html")
    own = [each["run"] for each in shown()]
    assert [name[-2:] for name in own] == ["a0", "b0"]
    assert f"note: pictures are of {own[0]}, {own[1]}: the first run of each group, 2 at most\n" in out
    assert not Path("report/pictures").exists()


def test_a_run_that_fails_is_a_note_of_one_line(capsys, monkeypatch):
    write_run("one")
    monkeypatch.setattr(pictures, "activations", lambda *_: (_ for _ in ()).throw(RuntimeError("sizes\ndo not match")))
    out = analyze(capsys, "runs/one", "--format", "html")
    assert re.search(r"^note: \S+ has no pictures: sizes do not match$", out, re.MULTILINE)
    assert shown() == []


def test_what_keeps_a_run_from_being_evaluated_is_told_once(capsys):
    write_run("one")
    Path("runs/one/config.yaml").unlink()
    out = analyze(capsys, "runs/one", "--format", "html")
    assert out.count("there is no config.yaml beside its checkpoint") == 1
    assert "pictures" not in out

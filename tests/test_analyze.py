"""The command: what it writes and prints, and what it says to mistakes."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_train import TINY

import norms
from mixing_analysis import DEFAULT_FORMATS, FORMATS, figures
from mixing_analysis.command import main
from mixing_analysis.values import COLUMNS
from training.command import main as train

ROOT = Path(__file__).parents[1]

all_drawings = figures.drawings


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three seeds of one configuration and a run of another, made once."""
    folder = tmp_path_factory.mktemp("trained")
    settings = TINY.replace("stand_ins.TinyModel", "test_binarized.Predicting")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "disabled")
        patch.syspath_prepend(ROOT / "tests" / "mixing_analysis")
        Path("tiny.yaml").write_text(settings)
        for seed in ("0", "1", "2"):
            assert train(["fit", "--config", "tiny.yaml", "--seed_everything", seed, "--data.seed", seed]) == 0
        other = ["--name", "other", "--model.norm", "switchable", "--trainer.max_steps", "5"]
        assert train(["fit", "--config", "tiny.yaml", *other]) == 0
    return folder


@pytest.fixture(autouse=True)
def _working_directory(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "tests" / "mixing_analysis")
    # Most of the time goes into figures, of which one will do.
    monkeypatch.setattr(figures, "drawings", lambda *args: dict([*all_drawings(*args).items()][:1]))


@pytest.fixture
def _ctrl_c():
    """Lightning ignores Ctrl-C for good once there was one."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


TRUST = ("--trust", "test_binarized", "--trust", "stand_ins")


def analyze(capsys, *arguments):
    status = main([*arguments, *TRUST])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    return out


def error_of(capsys, *arguments):
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    return err[len("error: ") : -1]


def missing_as_none(column):
    return column.astype(object).where(column.notna(), None).tolist()


def files(folder):
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_single_run(capsys):
    out = analyze(capsys, "runs/tiny/version_0", "-o", "report")
    table = pd.read_parquet("report/mixing.parquet")
    assert tuple(table.columns) == COLUMNS
    assert out.count("\n") < 60
    model = torch.load("runs/tiny/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    rho = model["net.norm1.rho"]
    shares = [f"{share:.1%}" for share in ((rho < 0.1).float().mean().item(), (rho > 0.9).float().mean().item())]
    (row,) = re.findall(r"^ *norm1 .*$", out, re.MULTILINE)
    assert row.split()[1:5] == ["4", f"{rho.mean():.3f}", *shares]
    assert "published" not in out, "a tiny network of 12 steps does not compare"
    weights = model["net.norm2.mean_weight"].softmax(0)
    (row,) = re.findall(r"^ *norm2 .*$", out, re.MULTILINE)
    assert row.split()[1:] == ["means", *(f"{weight:.3f}" for weight in weights)]
    assert len(re.findall(r"val/loss +(as trained|recalibrated)", out)) == 2
    assert len(table) == 4 * (4 + 6) + 2 * 4
    assert "wrote report/mixing.csv and mixing.parquet: 48 values of 1 run\n" in out
    assert "next:\n  open report/report.html in a browser\n" in out
    assert "train.py fit --config runs/tiny/version_0/config.yaml --seed 1  # another seed" in out
    shown, _, notes = out.partition("wrote ")[0].partition("note: ")
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert notes.startswith("tiny/version_0: no preference yet: every mean_weight is within 0.0")


def test_the_table_is_that_of_the_checkpoint_and_of_the_notebook(capsys):
    analyze(capsys, "runs/tiny/version_0", "--no-evaluation")
    text = pd.read_csv("report/mixing.csv", dtype={"value": np.float32})
    state = torch.load("runs/tiny/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    rows = text[(text["step"] == 12) & (text["kind"] == "rho")]
    assert rows["value"].tolist() == state["net.norm1.rho"].tolist()
    from test_binarized import Predicting

    model = Predicting()
    model.load_state_dict(state)
    notebook = pd.DataFrame(norms.mixing_values(model))
    ours = text[(text["step"] == 12) & (text["kind"] != "gamma")]
    for column in ("depth", "kind", "channel", "statistic"):
        assert missing_as_none(ours[column]) == missing_as_none(notebook[column])
    assert ours["value"].tolist() == notebook["value"].astype(np.float32).tolist()


def test_what_is_written_is_all_that_is_there(capsys, monkeypatch):
    monkeypatch.setattr(figures, "drawings", all_drawings)
    analyze(capsys, "runs/tiny/version_0", "--no-evaluation", "-o", "a/report")
    written = files("a/report")
    assert {"mixing.csv", "mixing.parquet", "report.html"} < written
    drawn = {name for name in written if name.startswith("figures/")}
    assert len(drawn) > 2
    assert {Path(name).suffix for name in drawn} == {
        f".{name}" for name in DEFAULT_FORMATS if name not in ("csv", "html")
    }
    assert written == drawn | {"mixing.csv", "mixing.parquet", "report.html", ".analysis"}
    assert "://" not in Path("a/report/report.html").read_text().replace("http://www.w3.org/", "")


def test_seeds_are_averaged_and_other_runs_stand_beside_them(capsys):
    out = analyze(capsys, "runs/tiny/version_0", "runs/tiny/version_1", "runs/tiny/version_2", "runs/other")
    table = pd.read_parquet("report/mixing.parquet")
    assert table.groupby("group", observed=True)["run"].nunique().to_dict() == {"tiny": 3, "other/version_0": 1}
    means = [
        torch.load(f"runs/tiny/version_{i}/checkpoints/last.ckpt", weights_only=True)["state_dict"][
            "net.norm1.rho"
        ].mean()
        for i in range(3)
    ]
    assert re.search(rf"^ *tiny \(3 runs\) +4 +{np.mean(means):.3f}±{np.std(means, ddof=1):.3f}", out, re.MULTILINE)
    assert re.search(r"other/version_0 +means", out)
    assert "another seed" not in out
    evaluated = re.findall(r"^ *(tiny \(3 runs\)|other/version_0)? +val/loss", out, re.MULTILINE)
    assert evaluated == ["tiny (3 runs)", "", "other/version_0", ""]


def test_a_report_is_renewed_but_no_other_file_is_replaced(capsys):
    analyze(capsys, "runs/tiny/version_0", "--no-evaluation")
    before = Path("report/report.html").read_text()
    analyze(capsys, "runs/other", "--no-evaluation")
    assert Path("report/report.html").read_text() != before
    Path("mine").mkdir()
    Path("mine/report.html").write_text("mine")
    message = "mine/report.html is not of a report of analyze.py: choose another folder with -o"
    assert error_of(capsys, "runs/other", "-o", "mine") == message
    assert Path("mine/report.html").read_text() == "mine"


def test_a_checkpoint_alone_says_why_it_is_not_evaluated(capsys):
    shutil.copy("runs/tiny/version_0/checkpoints/last.ckpt", "model.ckpt")
    out = analyze(capsys, "model.ckpt")
    assert "model.ckpt is not evaluated with binarized gates: there is no config.yaml beside its checkpoint" in out
    assert "another seed" not in out


def test_a_class_of_somebody_else_is_not_imported_unasked(capsys):
    assert main(["runs/tiny/version_0"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    reason = "its model 'test_binarized.Predicting' is not imported, since test_binarized is not trusted"
    assert (
        f"note: tiny/version_0 is not evaluated with binarized gates: {reason} (to trust it: --trust test_binarized)"
        in out
    )
    assert "train.py fit" not in out


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("trainer", "{callbacks: [{class_path: foreign.Callback}]}"),
        ("trainer", "{logger: os.system}"),
        ("data", "{class_path: data.images.ImageFolder, init_args: {transform: foreign.transforms.Crop}}"),
    ],
)
def test_training_is_not_recommended_with_a_configuration_that_imports_what_is_not_trusted(capsys, place, name):
    with Path("runs/tiny/version_0/config.yaml").open("a") as config:
        config.write(f"more:\n  {place}: {name}\n")
    assert "train.py fit" not in analyze(capsys, "runs/tiny/version_0", "--no-evaluation")


def test_a_run_that_cannot_be_evaluated_does_not_keep_others_from_it(capsys):
    Path("runs/tiny/version_1/config.yaml").unlink()
    out = analyze(capsys, "runs/tiny/version_0", "runs/tiny/version_1")
    assert "note: tiny/version_1 is not evaluated with binarized gates: " in out
    assert re.search(r"tiny/version_0 +val/loss", out)


def test_groups_by_name(capsys):
    out = analyze(capsys, "runs/other", "--group", "two=runs/tiny/version_0/,runs/tiny/version_2", "--no-evaluation")
    assert "two (2 runs)" in out
    message = error_of(capsys, "--group", "all=runs/other,runs/tiny")
    assert message.startswith(
        "runs of different architectures cannot be averaged, only compared: other/version_0 has norm1"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no run is given: expected a run folder, "),
        (["--group", "a=runs/other", "--group", "a=runs/tiny"], "two groups have the same name: a"),
        (["nothing"], "no such run: nothing (expected a run folder, "),
        (["empty"], "empty holds no run: expected empty/mixing or empty/checkpoints"),
        (["tiny.yaml"], "tiny.yaml is not a readable checkpoint: "),
        (["runs", "--layers", "block*"], "runs/other/version_0 has no layer block*: expected norm1, norm2"),
        (["runs", "--steps", "100:"], "runs/other/version_0 has no values at the steps 100:, but from 0 to 5"),
        (["runs", "--group", "model.nrom"], "--group: no run has a setting model.nrom, did you mean 'model.norm'?"),
        (["runs/tiny", "-o", "tiny.yaml/report"], "cannot write to tiny.yaml/report: Not a directory"),
        (["wandb:a/b/c"], "wandb:a/b/c cannot be read: nobody is logged in to W&B; run `wandb login` "),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, capsys):
    Path("empty").mkdir()
    assert error_of(capsys, *arguments).startswith(message)
    assert not Path("report").exists()


@pytest.mark.usefixtures("_ctrl_c")
@pytest.mark.parametrize("place", ["test_binarized.Predicting.validation_step", "mixing_analysis.report.write"])
def test_ctrl_c_leaves_the_old_report_and_no_trace(place, capsys, monkeypatch):
    def interrupt(*_):
        assert list(Path().rglob(".partial-*")), "nothing was begun"
        raise KeyboardInterrupt

    analyze(capsys, "runs/other", "--no-evaluation")
    before = sorted(Path().rglob("*"))
    contents = {name: Path("report", name).read_bytes() for name in files("report")}
    monkeypatch.setattr(place, interrupt)
    for folder in ("report", "new/report"):
        assert main(["runs/tiny/version_0", "-o", folder, *TRUST]) == 130
        assert capsys.readouterr() == ("", "interrupted\n")
    assert sorted(Path().rglob("*")) == before
    assert {name: Path("report", name).read_bytes() for name in files("report")} == contents


@pytest.mark.parametrize(
    "arguments",
    [
        ["a", "--batches", "0"],
        ["a", "--group", "x="],
        ["a", "--group", "=a"],
        ["a", "--group", "model.norm,"],
        ["a", "--steps", "9:1"],
        ["a", "--steps", "1:2:3"],
        ["a", "--steps", "first"],
    ],
)
def test_options_that_make_no_sense(arguments, capsys):
    assert "must be" in error_of(capsys, *arguments)


def test_a_folder_stands_for_all_runs_below_it(capsys):
    Path("runs/tiny/version_1/mixing/step_0000000.npz").write_bytes(b"damaged")
    Path("runs/best").symlink_to("tiny/version_0")
    Path("runs/.old").mkdir()
    shutil.copytree("runs/tiny/version_0", "runs/.old/version_0")
    out = analyze(capsys, "runs", "runs/tiny/version_0", "--no-evaluation")
    runs = pd.read_parquet("report/mixing.parquet")["run"].unique().tolist()
    assert runs == ["other/version_0", "tiny/version_0", "tiny/version_2"]
    assert "note: runs holds 4 runs, all of which are taken\n" in out
    assert re.search(r"note: runs/tiny/version_1 is left out: runs/tiny/version_1/mixing/step_0+\.npz is damaged", out)
    assert "damaged" in error_of(capsys, "runs/tiny/version_1", "-o", "new"), "what is named is not left out"


def test_groups_by_a_setting(capsys):
    out = analyze(capsys, "runs", "--group", "model.norm", "--no-evaluation", "--format", "csv")
    table = pd.read_csv("report/mixing.csv")
    assert table.groupby("group")["run"].nunique().to_dict() == {"norm=batch_instance": 3, "norm=switchable": 1}
    assert "norm=batch_instance" in out
    analyze(capsys, "runs/tiny", "--group", "seed_everything", "--no-evaluation", "--format", "csv")
    assert set(pd.read_csv("report/mixing.csv")["group"]) == {f"seed_everything={seed}" for seed in range(3)}


def test_steps_and_layers_of_choice(capsys):
    out = analyze(capsys, "runs/tiny", "--steps", "5:10", "--layers", "*1", "--no-evaluation", "--format", "csv")
    table = pd.read_csv("report/mixing.csv")
    assert (set(table["step"]), set(table["layer"]), set(table["depth"])) == ({5, 10}, {"norm1"}, {0})
    assert "note: of the layers, only *1: " in out
    analyze(capsys, "runs/tiny", "--steps", "0,12", "--no-evaluation", "--format", "csv")
    assert set(pd.read_csv("report/mixing.csv")["step"]) == {0, 12}
    assert files("report") == {"mixing.csv", "mixing.parquet", "comparisons.csv", ".analysis"}


def test_formats_of_choice(capsys):
    assert set(FORMATS) == {"csv", "html", *figures.FORMATS}
    assert set(DEFAULT_FORMATS) == {"csv", "html", *figures.DEFAULT_FORMATS}
    out = analyze(capsys, "runs/other", "--no-evaluation", "--format", "svg,png")
    assert {Path(name).suffix for name in files("report")} == {"", ".svg", ".png"}
    assert "report.html" not in out
    analyze(capsys, "runs/other", "--no-evaluation", "--format", "html")
    assert files("report") == {"report.html", ".analysis"}
    assert "No table of the numbers was asked for" in Path("report/report.html").read_text()
    message = "unknown format 'htm', did you mean 'html'? (known: csv, html, png, svg, pdf, gif, mp4)"
    assert error_of(capsys, "runs/other", "--format", "csv,htm") == message


def test_comparisons_are_written_and_told(capsys):
    one, two, three = (f"runs/tiny/version_{seed}" for seed in range(3))
    shutil.copytree("runs", "more")
    arguments = ["--group", f"a={one},{two},{three}", "--group", "b=more/tiny", "--no-evaluation", "--format", "csv"]
    out = analyze(capsys, *arguments)
    rows = pd.read_csv("report/comparisons.csv")
    assert set(zip(rows["first"], rows["second"], strict=True)) == {("a", "b")}
    assert rows["paired"].all(), "the seeds are the same"
    assert (rows["difference"] == 0).all()
    assert re.search(r"^ *b minus a$", out, re.MULTILINE)
    assert "wrote report/mixing.csv and mixing.parquet and comparisons.csv" in out
    analyze(capsys, "runs/tiny", "runs/other", "--no-evaluation", "--format", "csv")
    assert Path("report/comparisons.csv").exists()


def test_help_is_quick_and_has_examples(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "\n  python analyze.py runs --group model.norm " in capsys.readouterr().out
    light = "import sys, mixing_analysis.command, mixing_analysis; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", light], cwd=ROOT, check=False).returncode == 0

"""What the terminal says of runs: nothing wider than it is, and first what matters for all of them."""

import pytest
import run_folders

from mixing_analysis import console
from mixing_analysis.command import main
from mixing_analysis.findings import p_number


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for norm in run_folders.FALLS:
        for seed in range(3):
            run_folders.make(tmp_path / "runs" / norm / f"version_{seed}", norm, seed)
    return tmp_path / "runs"


def lines(capfd, *arguments):
    assert main(["runs", "--format", "csv", *arguments]) == 0
    return capfd.readouterr().out.splitlines()


def test_tables_and_what_is_said_below_them_fit(runs, capfd):
    shown = lines(capfd, "--no-evaluation")
    end = next(place for place, line in enumerate(shown) if line.startswith("over the whole network"))
    assert max(map(len, shown[:end])) <= 80
    words = " ".join(line.strip() for line in shown[:end])
    assert "p is Holm-corrected over layers (paired by seed), g is Hedges'." in words


def test_of_many_notes_those_on_all_runs_come_first_and_the_rest_are_counted(runs, capfd, monkeypatch):
    monkeypatch.setattr(console, "MOST_ROWS", 3)
    (runs / "slow" / "version_0" / "mixing" / "step_0000100.npz").unlink()
    notes = [line for line in lines(capfd) if line.startswith("note: ")]
    assert notes[0].startswith("note: the runs of slow end at different steps, from 50 to 100")
    # Two on the steps, one on the folder, and one on each run that has no checkpoint.
    assert notes[-1] == "note: and 6 more"
    assert len(notes) == 4


@pytest.mark.parametrize(("p", "words"), [(0.0497, "0.0497"), (0.0503, "0.0503"), (0.0123, "0.012"), (1.0, "1")])
def test_a_p_value_is_never_rounded_to_the_level(p, words):
    assert p_number(p) == words

"""The benchmark of the analysis runs, and its runs are such as the analysis reads."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mixing_analysis.groups import fold
from mixing_analysis.sources import read_runs


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "analysis.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_analysis", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("switchable", [False, True])
def test_its_runs_are_seeds_of_groups(switchable, benchmark, tmp_path):
    made = benchmark.make_runs(tmp_path, runs=7, layers=3, channels=4, steps=2, switchable=switchable)
    runs = fold(read_runs([str(path) for path in made]), {})
    assert [run.group for run in runs] == ["run_000"] * 5 + ["run_001"] * 2
    for run in runs:
        assert run.steps == [0, benchmark.STEPS_BETWEEN]
        assert len(run.frame) == 2 * 3 * (6 if switchable else 4)
        first = run.frame.loc[run.frame["step"] == 0, "value"]
        np.testing.assert_allclose(first, 1 / 3 if switchable else 1, rtol=1e-6)


@pytest.mark.slow
def test_it_runs(benchmark, tmp_path):
    sizes = ["--runs", "2", "--layers", "2", "--channels", "5", "--steps", "3"]
    benchmark.main([*sizes, "--markdown", str(tmp_path / "analysis.md"), "--keep", str(tmp_path / "kept")])
    written = (tmp_path / "analysis.md").read_text()
    assert "    python benchmarks/analysis.py --runs 2 --layers 2" in written
    assert f"| {2 * 2 * 5 * 3} values |" in written
    rows = [line.split(" | ") for line in written.splitlines() if line.startswith("| ")][2:]
    assert [row[-1] for row in rows if row[-1].strip(" |")] == ["yes |"] * (3 + (benchmark.find() is not None))
    assert (tmp_path / "kept" / "report" / "report.html").exists()

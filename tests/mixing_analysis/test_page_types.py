"""The modules of the page, checked by TypeScript where it is at hand."""

import shutil
import subprocess
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "mixing_analysis" / "page"
TSC = shutil.which("tsc") or shutil.which("tsc", path=str(PAGE.parents[1] / "node_modules" / ".bin"))


def check(folder):
    return subprocess.run([TSC, "-p", folder / "jsconfig.json"], capture_output=True, text=True, check=False).stdout


@pytest.mark.skipif(TSC is None, reason="no TypeScript is installed (npm install typescript)")
def test_the_modules_fit_their_types(tmp_path):
    assert check(PAGE) == ""
    copy = Path(shutil.copytree(PAGE, tmp_path / "page"))
    source = (copy / "series.js").read_text()
    (copy / "series.js").write_text(source.replace("runs[run].steps[0]", "runs[run].stepz[0]"))
    assert "Property 'stepz' does not exist" in check(copy)


def test_no_module_is_long():
    lengths = {path.name: len(path.read_text().splitlines()) for path in PAGE.glob("*.js")}
    assert max(lengths.values()) <= 400, lengths

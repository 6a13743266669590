"""The folder of the norms is a package of its own, to install or to copy."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "norms"
USE = """
import sys
import torch
import {package} as norms
y = norms.build("batch_instance", 4)(torch.randn(2, 4, 3, 3))
assert y.shape == (2, 4, 3, 3)
ours = [name for name in sys.modules if name.split(".")[0] == "norms"]
print(norms.__file__, len(ours))
"""


def copied(to):
    shutil.copytree(FOLDER, to, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    return to


def run(*command, cwd):
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_copy_within_another_package_needs_nothing_else_of_ours(tmp_path):
    folder = copied(tmp_path / "mypackage/norms")
    shown = run("-c", USE.format(package="mypackage.norms"), cwd=tmp_path)
    assert shown.split() == [str(folder / "__init__.py"), "0"]


@pytest.mark.slow
def test_the_folder_installs_alone_and_needs_torch_alone(tmp_path):
    folder = copied(tmp_path / "norms")
    run("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path, folder, cwd=tmp_path)
    (wheel,) = tmp_path.glob("norms-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        contents = set(archive.namelist())
        (metadata,) = (archive.read(name).decode() for name in contents if name.endswith("/METADATA"))
    sources = {f"norms/{path.name}" for path in FOLDER.glob("*.py")}
    assert {name for name in contents if ".dist-info/" not in name} == {*sources, "norms/py.typed"}
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:")]
    assert [line.split(">=")[0] for line in required] == ["Requires-Dist: torch"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_a_file_names_others_of_the_folder_relatively(path):
    lines = path.read_text().splitlines()
    assert [line for line in lines if line.startswith(("import norms", "from norms"))] == []

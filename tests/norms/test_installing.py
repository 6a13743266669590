"""The folder is a library of its own."""

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import norms

FOLDER = Path(norms.__file__).parent


def test_a_copy_of_the_folder_works_inside_another_package(tmp_path):
    (tmp_path / "mypackage").mkdir()
    shutil.copytree(FOLDER, tmp_path / "mypackage/norms", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import sys, torch; from mypackage import norms; "
        "norms.build('switchable', 4)(torch.randn(2, 4, 3, 3)).sum().backward(); "
        "print('norms' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False"], done.stderr


def test_it_imports_nothing_but_what_it_asks_for():
    asked = {"torch"}
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]
    assert {entry.partition(">")[0] for entry in project["dependencies"]} == asked
    trees = [ast.walk(ast.parse(path.read_text())) for path in FOLDER.glob("*.py")]
    nodes = [node for tree in trees for node in tree]
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
    assert {name.partition(".")[0] for name in imported} <= asked | set(sys.stdlib_module_names)


def test_no_module_is_hidden_by_a_function_of_its_name():
    modules = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "functional"}
    assert not modules & set(norms.__all__)


@pytest.mark.slow
def test_the_folder_installs_alone_and_needs_torch_alone(tmp_path):
    folder = shutil.copytree(FOLDER, tmp_path / "norms", ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", tmp_path]
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", *options, folder], check=True)
    (wheel,) = tmp_path.glob("normlab_norms-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        contents = set(archive.namelist())
        (metadata,) = (archive.read(name).decode() for name in contents if name.endswith("/METADATA"))
    sources = {f"norms/{path.name}" for path in FOLDER.glob("*.py")}
    assert {name for name in contents if ".dist-info/" not in name} == {*sources, "norms/py.typed"}
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:")]
    assert [line.split(">=")[0] for line in required] == ["Requires-Dist: torch"]

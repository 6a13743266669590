"""The package as a whole: its version, its commands, and what happens if another module has one of its names."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

import normlab

ROOT = Path(__file__).parents[1]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(*command, cwd, path=ROOT):
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", ["train", "stylize", "sample", "sweep", "analyze"])
def test_commands_tell_their_version_and_how_they_are_used_without_torch(command, tmp_path):
    door = f"import sys; sys.argv = ['normlab-{command}', *sys.argv[1:]]; import normlab; "
    door += f"end = 0\ntry: end = normlab.{command}()\nexcept SystemExit as error: end = error.code\n"
    door += "print(end, *({'torch', 'pytorch_lightning', 'wandb', 'torchvision'} & set(sys.modules)))"
    assert run("-c", door, "--version", cwd=tmp_path).stdout == f"normlab-{command} {normlab.__version__}\n0\n"
    helped = run("-c", door, "--help", cwd=tmp_path).stdout
    assert helped.endswith("\n0\n")
    assert len(helped.splitlines()) > 8


def test_the_installed_commands_are_the_functions_that_there_are():
    for command, target in PROJECT["project"]["scripts"].items():
        assert target == f"normlab:{command.removeprefix('normlab-')}"
        assert callable(getattr(normlab, target.partition(":")[2]))


def test_all_packages_are_installed_and_looked_at():
    packages = PROJECT["tool"]["setuptools"]["packages"]
    there = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for name in normlab.PACKAGES
        for path in (ROOT / name).rglob("__init__.py")
    }
    assert there == set(packages) - {"training.configs"}
    assert {package for package in packages if "." not in package} == set(normlab.PACKAGES)


def test_commands_are_called_as_they_are_installed(monkeypatch, tmp_path):
    command = "python sample.py runs/gan -o 'python train.py.png'"
    assert normlab.as_installed(command) == command
    monkeypatch.setattr(normlab, "ROOT", tmp_path)
    assert normlab.as_installed(command) == "normlab-sample runs/gan -o 'python train.py.png'"
    assert normlab.as_installed("wandb sync runs") == "wandb sync runs"


@pytest.mark.parametrize("name", ["data", "norms", "training"])
@pytest.mark.parametrize("kind", ["module", "package", "namespace"])
def test_a_module_that_hides_a_package_is_told(name, kind, tmp_path, monkeypatch):
    other = tmp_path / (f"{name}.py" if kind == "module" else name)
    if kind == "module":
        other.touch()
    else:
        other.mkdir()
    if kind == "package":
        (other / "__init__.py").touch()
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(ROOT)])
    if kind == "namespace":  # a folder of images, say, which a package anywhere on the path has precedence over
        normlab.check_packages()
        monkeypatch.setattr(PathFinder, "find_spec", lambda name: _namespace(other))
    with pytest.raises(ImportError, match=re.escape(f"{other} hides {ROOT / name}")):
        normlab.check_packages()


def _namespace(folder):
    class Spec:
        origin, submodule_search_locations = None, [str(folder)]

    return Spec if folder.is_dir() else None


def test_a_package_that_is_installed_by_itself_is_no_stranger(tmp_path, monkeypatch):
    monkeypatch.setattr(normlab, "ROOT", tmp_path)
    normlab.check_packages()


def test_who_imports_the_package_is_told(tmp_path):
    (tmp_path / "data.py").touch()
    result = run("-c", "import lightning_modules", cwd=tmp_path)
    assert result.stderr.splitlines()[-1].startswith(f"ImportError: {tmp_path / 'data.py'} hides {ROOT / 'data'}")


@pytest.mark.parametrize("name", ["data", "norms", "training"])
def test_who_calls_a_command_is_told_in_one_line(name, tmp_path):
    (tmp_path / f"{name}.py").touch()
    result = run("-c", "import sys, normlab; sys.exit(normlab.train())", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == (
        f"error: {tmp_path / name}.py hides {ROOT / name} of normlab: rename it, or work in another folder\n"
    )

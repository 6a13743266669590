"""The configurations and the documents say what is true of the code."""

import ast
import doctest
import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

import normlab
import norms
from lightning_modules import StyleTransfer
from training.command import main
from training.shipped import shipped_configs

ROOT = Path(__file__).parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted((ROOT / "docs").rglob("*.md"))}
DOCUMENTS = {name: (ROOT / name).read_text() for name in ("README.md", "norms/README.md", "CONTRIBUTING.md")}
# Pages that begin with "---" show one of those.
DOCUMENTS |= {name: text for name, text in PAGES.items() if not text.startswith("---")}
README, OF_NORMS = DOCUMENTS["README.md"], DOCUMENTS["norms/README.md"]
CONFIGS = sorted(shipped_configs().values())


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_is_complete(config, capsys):
    assert main(["fit", "--config", str(config), "--print_config"]) == 0
    shown = capsys.readouterr().out
    assert f"name: {config.stem}\n" in shown
    assert "max_steps: -1" not in shown


def test_the_readme_names_every_configuration():
    first_cells = " ".join(re.findall(r"^\| (`\w+\.yaml`[^|]*)", README, re.MULTILINE))
    assert {path.name for path in CONFIGS} == set(re.findall(r"`(\w+\.yaml)`", first_cells))


def trainings():
    texts = [text.replace("\\\n", " ") for text in DOCUMENTS.values()]
    found = {c for text in texts for c in re.findall(r"python train\.py (fit --config [^\n#`]*)", text)}
    # FILE, MyNorm and $seed are the reader's.
    return sorted(command.strip() for command in found if not re.search(r"FILE|my|\$|--print_config|--ckpt", command))


@pytest.mark.parametrize("command", trainings())
def test_the_training_commands_of_the_documents_are_accepted(command, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main([*command.split(), "--print_config"]) == 0


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_files_that_a_document_points_to_exist(document):
    prose = re.sub(r"```.*?```", "", DOCUMENTS[document], flags=re.DOTALL)
    targets = re.findall(r"\]\((?!http)([^)#]+)", prose)
    assert targets or document.startswith("docs/")
    assert [target for target in targets if not (ROOT / document).parent.joinpath(target).exists()] == []


def test_the_table_of_the_norms_has_a_row_for_every_name():
    rows = re.findall(r"^\| (?:[^|]*; )?`(\w+)`", OF_NORMS, re.MULTILINE)
    assert [name for name in rows if name in norms.names()] == norms.names()


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_the_site_has_every_page():
    named = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(f"docs/{page}" for page in named) == sorted(PAGES)


def test_the_citation_is_of_this_version():
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited[1] == normlab.__version__


def test_the_targets_that_contributors_are_told_of_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = set(re.findall(r"^make (\w+)", DOCUMENTS["CONTRIBUTING.md"], re.MULTILINE))
    assert told == targets - {"help"}


def test_the_document_of_the_norms_names_all_that_they_export():
    code = "\n".join(re.findall(r"```python\n.*?```|`[^`\n]+`", OF_NORMS, re.DOTALL))
    expected = {re.sub(r"[13]d$", "2d", name) for name in norms.__all__}
    assert expected - set(re.findall(r"\w+", code)) == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_names_nothing_of_the_norms_that_does_not_exist(document):
    named = re.findall(r"\bnorms\.(\w+)", re.sub(r"norms\.(md|py)\b", "", DOCUMENTS[document]))
    assert [name for name in named if not hasattr(norms, name)] == []


def test_what_functions_and_classes_do_is_said_by_a_verb():
    no_verbs = r"(What|Whether|Which|How|The|An?|One|All|Every|From|For|Of|By|With|Without|Base|Command)\b"
    functions = (ast.FunctionDef, ast.ClassDef)
    for path in (
        path for folder in (*normlab.PACKAGES, "benchmarks", "tools") for path in ROOT.glob(f"{folder}/**/*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, functions) and not any("property" in ast.unparse(each) for each in node.decorator_list):
                assert not re.match(no_verbs, ast.get_docstring(node) or ""), (path, node.name)


def snippets():
    found = []
    for document, text in DOCUMENTS.items():
        for match in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
            line = text.count("\n", 0, match.start(1))
            # Empty lines before it, so that a traceback shows the line of the document.
            found.append(pytest.param(document, "\n" * line + match[1], id=f"{document}:{line + 1}"))
    return found


@pytest.fixture
def _a_style_run(tmp_path, monkeypatch):
    """The run that the README reads from, as small as can be."""
    module = StyleTransfer(style="night", style_size=64, widths=[4, 8], num_blocks=1)
    module.setup("fit")
    for _, layer in norms.mixing_layers(module):
        torch.nn.init.constant_(layer.rho, 0.585)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "runs/style_transfer/version_0/checkpoints/last.ckpt")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_a_style_run")
@pytest.mark.parametrize(("document", "code"), snippets())
def test_the_snippets_run_and_print_what_they_say(document, code, capsys):
    torch.manual_seed(0)
    exec(compile(code, ROOT / document, "exec"), {"__name__": "__main__"})
    # A comment over a whole line is what the snippet prints.
    said = "".join(re.findall(r"^# (.*\n)", code, re.MULTILINE))
    shown = capsys.readouterr().out
    assert doctest.OutputChecker().check_output(said, shown, doctest.ELLIPSIS), shown

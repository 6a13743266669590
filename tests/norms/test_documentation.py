"""What is public is documented, and the documentation tells what there is."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import norms

over = pytest.mark.parametrize
PUBLIC = {name: getattr(norms, name) for name in norms.__all__}
CLASSES = [value for value in PUBLIC.values() if inspect.isclass(value)]
LAYERS = [kind for kind in CLASSES if issubclass(kind, nn.Module) and not inspect.isabstract(kind)]
FUNCTIONS = [value for value in PUBLIC.values() if inspect.isfunction(value)]


def section(thing, title):
    """The text under a title of a docstring, or nothing. What all norms share, MomentNorm says."""
    found = re.search(rf"^{title}:\n((?:[ ]+.*\n|\n)+)", inspect.getdoc(thing) + "\n", re.MULTILINE)
    if found is None and title == "Shape" and "options: Those of :class:`norms.MomentNorm`" in inspect.getdoc(thing):
        return section(norms.MomentNorm, title)
    return found.group(1) if found else ""


def entries(thing, title):
    return re.findall(r"^ {4}(\w+)(?: \([\w\[\], .|]+\))?:", section(thing, title), re.MULTILINE)


@over("thing", [*LAYERS, *FUNCTIONS], ids=lambda thing: thing.__name__)
def test_the_arguments_are_those_of_the_signature(thing):
    documented, parameters = entries(thing, "Args"), list(inspect.signature(thing).parameters)
    if not documented and parameters[:1] == ["model"]:
        # What takes a model says so in its first line.
        assert all(f"``{name}``" in inspect.getdoc(thing) for name in parameters[1:])
        return
    if "options" in documented and "options" not in parameters:
        # The norms hand these on to MomentNorm, which documents them.
        documented.remove("options")
        common = entries(norms.MomentNorm, "Args")
        assert set(parameters) - set(documented) <= set(common)
        assert set(documented) & set(common) == {"num_features"}
        parameters = [name for name in parameters if name in documented or name not in common]
        text = " ".join(section(thing, "Args").partition("options:")[2].split())
        assert ":class:`norms.MomentNorm`" in text
        missing = [name for name in common if name not in inspect.signature(thing).parameters]
        assert all(f"``{name}``" in text for name in missing)
    assert documented == parameters


@over("kind", LAYERS, ids=lambda kind: kind.__name__)
def test_every_layer_has_a_formula_a_shape_and_a_source(kind):
    assert ".. math::" in inspect.getdoc(kind)
    for title in ("Shape", "Source"):
        assert section(kind, title).strip(), title


@over("kind", [kind for kind in LAYERS if issubclass(kind, norms.MomentNorm)], ids=lambda kind: kind.__name__)
def test_every_norm_tells_its_parameters_and_buffers_and_where_they_start(kind):
    layer = kind(16, **({"sparse_steps": 3} if "sparse_steps" in inspect.signature(kind).parameters else {}))
    documented = section(kind, "Attributes") + section(norms.MomentNorm, "Attributes")
    own, common = set(entries(kind, "Attributes")), set(entries(norms.MomentNorm, "Attributes"))
    assert own <= set(layer.state_dict()) <= own | common
    for name, value in layer.state_dict().items():
        kind_of_value = "Parameter" if name in dict(layer.named_parameters()) else "Tensor"
        text, *_ = re.findall(
            rf"^ {{4}}{name} \({kind_of_value}\): ((?:.+\n?)(?: {{8}}.+\n?)*)", documented, re.MULTILINE
        )
        text = " ".join(text.split())
        if value.dtype == torch.int64:
            assert "int64 scalar" in text
        else:
            shape = {(): "scalar", (3,): "(K,)", (16,): "(C,)", (1, 16, 16): "(C/g, g, g)"}[tuple(value.shape)]
            assert shape in text or "likewise" in text
    assert "bfloat16 and float16" in " ".join(section(kind, "Shape").split())
    assert "ValueError" in section(norms.MomentNorm, "Raises")


STARTS_AT_ONE = {"weight", "rho", "mean_weight", "var_weight", "running_var", "running_std"}


@over("kind", [kind for kind in LAYERS if issubclass(kind, norms.MomentNorm)], ids=lambda kind: kind.__name__)
def test_norms_start_where_they_tell(kind):
    for name, value in kind(16).state_dict().items():
        if name == "running_covariance":
            assert torch.equal(value, torch.eye(16)[None])
        else:
            assert value.eq(1 if name in STARTS_AT_ONE else 0).all(), name


def test_the_page_on_the_norms_has_every_name():
    page = (Path(norms.__file__).parent / "README.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| ")]
    assert all(any(f"`{name}`" in row for row in rows) for name in norms.names())


@over("kind", LAYERS, ids=lambda kind: kind.__name__)
def test_the_methods_of_layers_are_documented(kind):
    own = [
        name
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if name[0] != "_" and method.__module__.startswith("norms.")
    ]
    assert "forward" in own
    assert not [name for name in own if not inspect.getdoc(getattr(kind, name))]

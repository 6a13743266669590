import numpy as np
import pytest
from pandas import DataFrame
from PIL import Image

from experiments import style_gates, style_inputs
from experiments.pages.style_mixing import _rise as rise
from experiments.pages.style_norms import METRICS, over_styles
from experiments.pages.style_norms import _claims as claims
from experiments.pages.style_norms import _input_claims as input_claims
from experiments.style_gates import CELLS, between_channels, causes, rho_of_layers, rho_of_networks, values
from experiments.variance import components, shares
from experiments.verdicts import CONTRADICTED, HOLDS, UNDECIDED
from norms.errors import SettingError


def test_components_of_effects_that_add_up_are_their_variances():
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=5), rng.normal(size=4), rng.normal(size=3)
    found = components(a[:, None, None] + b[:, None] + c, ("a", "b", "c"))
    assert found == pytest.approx(
        {("a",): a.var(ddof=1), ("b",): b.var(ddof=1), ("c",): c.var(ddof=1)}
        | dict.fromkeys([("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c")], 0),
        abs=1e-12,
    )
    assert shares(found, ("a", "b", "c"))["b"] == pytest.approx(b.var(ddof=1) / sum(v.var(ddof=1) for v in (a, b, c)))


def test_components_are_those_of_the_two_way_analysis_of_variance():
    y = np.random.default_rng(1).normal(size=(6, 4)) + 3 * np.arange(6)[:, None]
    rows, columns = y.shape
    residual = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
    error = (residual**2).sum() / ((rows - 1) * (columns - 1))
    found = components(y, ("row", "column"))
    assert found["row", "column"] == pytest.approx(error)
    assert found["row",] == pytest.approx(y.mean(1).var(ddof=1) - error / columns)
    assert found["column",] == pytest.approx(max(0, y.mean(0).var(ddof=1) - error / rows))


def test_components_are_unbiased():
    rng = np.random.default_rng(2)
    drawn = [components(2 * rng.normal(size=(9, 1)) + rng.normal(size=(9, 5)), ("layer", "seed")) for _ in range(300)]
    assert np.mean([found["layer",] for found in drawn]) == pytest.approx(4, rel=0.1)
    assert np.mean([found["layer", "seed"] for found in drawn]) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("y", [np.zeros((1, 3)), np.full((2, 2), np.nan), np.zeros(3)])
def test_components_need_two_levels_of_each_factor(y):
    with pytest.raises(ValueError, match="two levels or more of a, b"):
        components(y, ("a", "b"))


def test_equalized_photos_have_all_tones_equally_often_and_their_colors():
    dark = np.random.default_rng(3).integers(100, 120, (64, 64, 1)).repeat(3, axis=2) + np.array([0, 5, 9])
    photo = Image.fromarray(dark.astype(np.uint8))
    result = style_inputs.equalized(photo)
    before, after = (np.asarray(image.convert("YCbCr"), int) for image in (photo, result))
    tones = np.sort(after[..., 0].ravel())
    assert np.abs(tones - np.linspace(0, 255, tones.size)).max() < 20
    middle = (after[..., 0] > 30) & (after[..., 0] < 225)  # at the ends there is no room for colors
    assert np.abs(after - before)[middle][:, 1:].max() <= 2


def test_style_inputs_are_written_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(style_inputs, "painter", lambda: (None, None))
    monkeypatch.setattr(style_inputs, "paint", lambda model, photo, manner: Image.new("RGB", photo.size, "red"))
    for part in style_inputs.PARTS:
        (tmp_path / "photos" / part).mkdir(parents=True)
        Image.new("RGB", (40, 30), "gray").save(tmp_path / "photos" / part / "a.png")
    words = [str(tmp_path / "photos"), str(tmp_path / "made")]
    assert style_inputs.main(words) == 0
    assert "4 photos" in capsys.readouterr().out
    made = {path.relative_to(tmp_path / "made").as_posix() for path in (tmp_path / "made").rglob("*.jpg")}
    assert made == {f"{kind}/{part}/a.jpg" for kind in ("contrast", "style") for part in ("train", "val")}
    assert style_inputs.main(words) == 0
    assert "0 photos" in capsys.readouterr().out
    for part in style_inputs.PARTS:
        (tmp_path / "photos" / part / "a.png").unlink()
    with pytest.raises(SettingError, match="no image files in its folders train and val"):
        style_inputs.write(tmp_path / "photos", tmp_path)


def made_runs(losses, seeds=3, styles=("night", "waves")):
    """Return a row per run with a loss for each norm, which seeds change a little, and all norms alike."""
    return DataFrame(
        {"norm": norm, "seed": seed, "style": style, "train/style": loss + 0.01 * seed}
        | dict.fromkeys(METRICS, loss + 0.01 * seed + 0.001 * (norm == "batch") * seed)
        for seed in range(seeds)
        for style in styles
        for norm, loss in losses.items()
    )


def test_only_seeds_of_all_styles_are_averaged():
    runs = made_runs({"batch": 2.0, "instance": 1.0}).iloc[:-1]  # the last seed of instance lacks a style
    whole = over_styles(runs, ["night", "waves"])
    assert sorted(zip(whole["norm"], whole["seed"], strict=True)) == [
        ("batch", 0), ("batch", 1), ("batch", 2), ("instance", 0), ("instance", 1),
    ]  # fmt: skip


def test_claims_follow_the_losses():
    losses = {"instance": 1.0, "batch_instance": 1.2, "switchable": 1.5, "batch": 2.0}
    verdicts = [claim.verdict for claim in claims(over_styles(made_runs(losses), ["night", "waves"]))]
    assert verdicts == [HOLDS, HOLDS, CONTRADICTED, HOLDS, HOLDS, CONTRADICTED]
    single = [claim.verdict for claim in claims(over_styles(made_runs(losses, seeds=1), ["night", "waves"]))]
    assert set(single) == {UNDECIDED}


@pytest.mark.parametrize(("contrast", "style", "verdicts"), [(0.9, 0.1, HOLDS), (0.1, 0.9, CONTRADICTED)])
def test_claims_on_inputs_follow_what_is_left_of_the_gain(contrast, style, verdicts):
    gains = {"original": 1.0, "contrast": contrast, "style": style}
    given = DataFrame(
        {
            "input": kind,
            "norm": norm,
            "seed": seed,
            "train/style": 1 + 0.01 * seed * (norm == "batch") + gain * (norm == "batch"),
        }
        for kind, gain in gains.items()
        for norm in ("batch", "instance")
        for seed in range(3)
    )
    assert {claim.verdict for claim in input_claims(given)} == {verdicts}


def made_gates(sweep, layers, rho):
    return DataFrame(
        {"sweep": sweep, "folder": sweep, "seed": seed, "style": None, "step": 300, "layer": layer, "kind": "rho"}
        | {"channel": channel, "statistic": None, "value": rho(layer, seed, channel)}
        for seed in range(2)
        for layer in layers
        for channel in range(4)
    )


def test_layers_of_a_network_of_several_styles_are_of_their_styles(monkeypatch):
    layers = ["first.norm.norms.night", "first.norm.norms.waves", "up.norm.norms.night", "up.norm.norms.waves"]
    table = made_gates(
        "style_mixing_many", layers, lambda layer, seed, channel: float("night" in layer) * (channel > 0)
    )
    monkeypatch.setattr(style_gates, "learned", lambda runs: table)
    rows = values(None)
    assert rows.groupby("layer")["depth"].unique().explode().to_dict() == {"first.norm": 0, "up.norm": 1}
    assert set(rows["cell"]) == {CELLS["style_mixing_many"]}
    means = rho_of_layers(rows).groupby("style")["value"].unique()
    assert (means["night"].tolist(), means["waves"].tolist()) == ([0.75], [0.0])
    night = rho_of_networks(rows).set_index("style").loc["night"]
    assert set(night["above"]) == {0.75}
    assert set(night["below"]) == {0.25}


def test_a_network_of_one_style_is_in_the_usual_one_and_channels_cause_what_layers_do_not(monkeypatch):
    table = made_gates("style_mixing_long", ["a", "b"], lambda layer, seed, channel: channel / 3)
    monkeypatch.setattr(style_gates, "learned", lambda runs: table)
    rows = values(None)
    assert set(rows["style"]) == {style_gates.STYLE}
    assert between_channels(rows) == pytest.approx(1)


def test_causes_are_told_apart():
    rows = DataFrame(
        {"cell": "a", "depth": depth, "style": style, "seed": seed, "step": 1, "value": depth + 3.0 * (style == "x")}
        for depth in range(4)
        for style in ("x", "y")
        for seed in range(3)
    )
    found = causes(rows).set_index("left out")
    depths, styles = np.var(range(4), ddof=1), 4.5
    assert found.loc["", "layer"] == pytest.approx(depths / (depths + styles))
    assert found.loc["", "seed"] == 0
    assert list(found.index) == ["", "seed 0", "seed 1", "seed 2"]
    assert causes(rows[rows["seed"] == 0]).empty


def test_rho_rises_from_the_first_third_of_layers_to_the_last():
    rows = [
        {"seed": seed, "depth": depth, "style": "night", "value": 0.2 * depth + 0.01 * seed * (depth > 3)}
        for seed in range(3)
        for depth in range(6)
    ]
    found = rise(DataFrame(rows))
    assert (found.seeds, found.difference) == (3, pytest.approx(0.8 + 0.01))
    assert found.text("+.3f").startswith("+0.810 (95 % interval ")

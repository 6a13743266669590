"""The pages on norms in a generator and on pruning, of made-up runs, so that the answers are known."""

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from gan_runs import make_gan
from gan_runs import write_run as write_trained
from made_sweeps import write_run, write_sweep
from PIL import Image

from experiments import pruned
from experiments.layer_values import depth_trend, layer_values
from experiments.pages import gan_norms, pruning
from experiments.pruned import BINARIZED, FILE, LEARNED, PLAIN, VERSIONS, measured
from experiments.reading import Runs
from experiments.verdicts import CONTRADICTED, HOLDS
from norms.mixing import mixing_layers

LAYERS = ["block1.norm1", "block1.norm2", "output.norm"]
NORMS = ["batch", "batch_instance", "switchable"]
COLLAPSE = {"step": 100, "sign": "collapse", "action": "warn", "reason": "images are alike"}


def gan_sweeps(folder):
    seed, spectral = {"values": [0, 1, 2]}, {"values": ["discriminator", "none"]}
    of_spectral = {"model.architecture_options.spectral": spectral}
    grid = {"seed": seed, "model.norm": {"values": NORMS}, **of_spectral}
    return (
        write_sweep(folder, name="gan_norms", parameters=grid)[1],
        write_sweep(folder, name="gan_norms_classes", parameters={"seed": seed, **of_spectral})[1],
    )


def write_gan(runs_dir, sweep, number, settings):
    """Write a run that is better by 1 with spectral normalization, by 0.5 with classes, and falls back without both."""
    seed, normalized = settings["seed"], settings["model.architecture_options.spectral"] == "discriminator"
    norm = settings.get("model.norm", "conditional")
    end = 3 - normalized - 0.5 * (norm == "conditional") + 0.3 * seed + 0.01 * number % 0.02
    rows = [
        {
            "step": step,
            "val/fd_garments": end + (100 - step) / 50 * (1 if normalized else -1),
            "val/kid_garments": end / 100,
            "guard/diversity": 0.9,
            "spectral/discriminator/sigma": 1.02 if normalized else 3.0,
            "spectral/discriminator/bound": 100.0,
            "spectral/discriminator/estimate_error": 0.02 + 0.001 * seed if normalized else "",
            "rho/all/share_below_0_1": 0.3 if norm == "batch_instance" else "",
            "rho/all/share_above_0_9": 0.4 + 0.01 * seed if norm == "batch_instance" else "",
        }
        for step in (50, 100)
    ]
    events = [COLLAPSE] if norm == "switchable" and not normalized and seed == 2 else []
    version = write_run(runs_dir, sweep, number, settings, rows, events=events)
    (version / "samples").mkdir()
    Image.new("L", (726, 726), 128).save(version / "samples" / "step_0000100.png")
    write_mixing(version, norm, seed)


def write_mixing(version, norm, seed):
    values = {}
    for depth, layer in enumerate(LAYERS):
        if norm == "batch_instance":
            values[f"{layer}/rho"] = np.array([1.0, 0.0, 0.95, 0.6 - 0.2 * depth + 0.01 * seed], np.float32)
        if norm == "switchable":
            weights = np.array([0.2 + 0.1 * depth + 0.01 * seed, 0.3, 0.5 - 0.1 * depth - 0.01 * seed], np.float32)
            values |= {f"{layer}/{moment}_weight": weights for moment in ("mean", "var")}
    if values:
        (version / "mixing").mkdir()
        np.savez(version / "mixing" / "step_0000100.npz", **values)


@pytest.fixture(scope="module")
def gan_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gan")
    sweeps = gan_sweeps(folder)
    for sweep in sweeps:
        for number, settings in enumerate(sweep.grid(), 1):
            write_gan(folder, sweep, number, settings)
    return Runs(sweeps, folder)


def test_what_layers_have_learned(gan_runs):
    values = layer_values(gan_runs)
    assert list(dict.fromkeys(values["layer"])) == LAYERS
    first = values[(values["layer"] == LAYERS[0]) & (values["seed"] == 1) & (values["spectral"] == "none")]
    found = first.set_index("name")["value"]
    assert found["rho"] == pytest.approx((1 + 0 + 0.95 + 0.61) / 4)
    assert (found["rho/below"], found["rho/above"]) == (0.25, 0.5)
    assert found["mean_weight/batch"] == pytest.approx(0.49)
    rho = values[(values["name"] == "rho") & (values["spectral"] == "none")]
    assert depth_trend(rho, LAYERS) == pytest.approx([-1, -1, -1])
    instance = values[(values["name"] == "var_weight/instance") & (values["spectral"] == "none")]
    assert depth_trend(instance, LAYERS) == pytest.approx([1, 1, 1])


def test_the_page_on_generators_decides_what_the_numbers_say(gan_runs):
    page = gan_norms.page(gan_runs)
    assert [figure.name for figure in page.figures] == ["training", "sigma", "samples", "depth", "time"]
    spectral, iterations, classes, _, _, ends, resolution = page.claims
    assert (spectral.verdict, iterations.verdict, classes.verdict) == (HOLDS, HOLDS, HOLDS)
    assert (ends.verdict, resolution.verdict) == (HOLDS, HOLDS)
    assert "without 3.18, with 2.19, difference -0.997" in spectral.here
    scores = page.tables[0].rows.set_index(["norm", "spectral norm in D"])
    assert scores["fell back"].tolist() == [0, 3] * 4
    assert scores.loc[("switchable", "without"), "collapse"] == 1
    assert scores["collapse"].sum() == 1
    assert list(dict.fromkeys(scores.index.get_level_values(0))) == [
        "batch",
        "batch-instance",
        "switchable",
        "conditional",
    ]


def test_a_missing_run_does_not_shift_what_spectral_normalization_is_worth(gan_runs):
    ends = gan_norms.named(gan_runs.last("val/fd_garments"))
    whole = gan_norms.of_spectral(ends)
    # Without the best norm's runs without spectral normalization, a plain mean would be off.
    part = gan_norms.of_spectral(ends[(ends["norm"] != "conditional") | (ends["spectral"] == "with")])
    assert whole.difference == pytest.approx(-1, abs=0.02)
    assert part.difference == pytest.approx(-1, abs=0.02)


@pytest.fixture(scope="module")
def pruned_runs(tmp_path_factory):
    """Runs whose measurements are there already: rounding costs switchable style networks 40 %, and others nothing."""
    folder = tmp_path_factory.mktemp("pruned")
    seeds = {"seed": {"values": [0, 1, 2]}, "model.norm": {"values": ["instance", *NORMS]}}
    sweeps = [write_sweep(folder, name=name, parameters=seeds)[1] for name in pruning.SWEEPS]
    for sweep in sweeps:
        metric = pruning.METRICS[sweep.name]
        for number, settings in enumerate(sweep.grid(), 1):
            norm, seed = settings["model.norm"], settings["seed"]
            end = (2.0 if norm in ("instance", "batch") else 1.5) + 0.1 * seed
            version = write_run(folder, sweep, number, settings, [{"step": 100, metric: end}])
            (version / "checkpoints").mkdir()
            (version / "checkpoints" / "last.ckpt").touch()
            if norm not in ("instance", "batch"):
                costs = 0.4 if (sweep.name, norm) == ("style_norms", "switchable") else 0.0
                near = 0.3 if metric == "val/loss" else 0.7
                rows = rows_of(metric, end, costs + 0.001 * seed, near)
                pd.DataFrame(rows).to_csv(version / FILE, index=False)
    return Runs(sweeps, folder)


def rows_of(metric, end, costs, near):
    for version in (LEARNED, *VERSIONS):
        rounded = version.startswith("binarized")
        for statistics in ("as trained", "recalibrated"):
            yield {
                "version": version,
                "statistics": statistics,
                "metric": metric,
                "value": end * (1 + costs * rounded),
                "plain": float(version == "binarized and pruned"),
                "gates": near if version == "within 0.1" else 1.0,
                "parameters": 10,
                "bytes": 100,
                "speed": {PLAIN: 1.3 + 0.01 * end, BINARIZED: 1.4}.get(version, 1.0),
            }


def test_the_page_on_pruning_decides_what_the_numbers_say(pruned_runs):
    page = pruning.page(pruned_runs)
    one_statistic, gates, ends, faster, chosen = page.claims
    assert one_statistic.verdict == CONTRADICTED
    assert "style: score +40.1%" in one_statistic.here
    assert gates.verdict == HOLDS
    # That rounding gates costs nothing does not say that they were near an end: of style networks most were not.
    assert (ends.here, ends.verdict) == ("style: 30% ± 0% (n=3); GAN: 70% ± 0% (n=3)", CONTRADICTED)
    # All are faster than as learned, but less so than those that are rounded alone, where nothing is saved.
    assert "the mean of all minus that of networks that are binarized alone -0.0" in faster.here
    assert faster.verdict == CONTRADICTED
    # Learned mixtures are better by 0.5 than plain norms, which what 40 % of 1.6 more costs does not leave.
    assert "style, switchable against instance +0.142" in chosen.here
    assert chosen.verdict == CONTRADICTED
    table = page.tables[0].rows
    assert len(table) == 4 * (1 + len(VERSIONS))


def test_a_generator_is_measured_once_in_all_versions(tmp_path, monkeypatch):
    monkeypatch.setattr(pruned, "IMAGES", 64)
    monkeypatch.setattr("mixing_analysis.pruning.ROUNDS", 1)
    gan = make_gan(norm="batch_instance")
    for _, layer in mixing_layers(gan):
        with torch.no_grad():
            layer.rho.fill_(1.0)
            layer.rho[: layer.num_features // 2] = 0.08
    write_trained(tmp_path, gan)
    config = {**yaml.safe_load((tmp_path / "config.yaml").read_text()), "model": "lightning_modules.GAN"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    found = measured(str(tmp_path))
    distance = found[found["metric"] == "val/fd_garments"].set_index("version")
    value, plain, gates = distance["value"], distance["plain"], distance["gates"]
    assert list(distance.index) == [LEARNED, *VERSIONS]
    # Nothing is within 0.05 of an end, all is within 0.1; and pruning computes what rounding does.
    assert value["within 0.05"] == value[LEARNED]
    assert value["within 0.1"] == pytest.approx(value[BINARIZED], rel=1e-3)
    assert value[PLAIN] == pytest.approx(value[BINARIZED], rel=1e-3)
    assert value[BINARIZED] != pytest.approx(value[LEARNED], rel=1e-3)
    assert (plain["within 0.05"], plain["within 0.1"], plain[BINARIZED], plain[PLAIN]) == (0, 1, 0, 1)
    assert (gates["within 0.05"], gates["within 0.1"], gates[BINARIZED]) == (0.5, 1, 1)
    monkeypatch.setattr(pruned, "VERSIONS", None)
    pd.testing.assert_frame_equal(measured(str(tmp_path)), found)

"""The pages on the landscape and on whitening, of made-up runs: their claims follow from the numbers."""

import pytest
from made_sweeps import write_run

from experiments.catalog import CONFIGS
from experiments.pages import landscape, whitening
from experiments.reading import Runs
from sweeping.sweep_file import read_sweep


def made(folder, names, rows):
    """Write a run for each point of some grids, with the rows that ``rows(name, norm, differentiate, seed)`` gives."""
    sweeps = [read_sweep(CONFIGS / f"{name}.yaml") for name in names]
    for sweep in sweeps:
        for number, settings in enumerate(sweep.grid(), 1):
            norm, differentiate = settings.get("model.norm"), settings.get("model.norm_options.differentiate")
            write_run(folder, sweep, number, settings, rows(sweep.name, norm, differentiate, settings["seed"]))
    return Runs(sweeps, folder)


def verdicts(page):
    return {claim.text: claim.verdict.split()[0] for claim in page.claims}


def looks(name, norm, differentiate, seed):
    batch, wobble = norm != "none", 1 + 0.01 * seed
    noisy = "Noisy" in norm
    rows = []
    for step in (10, 20):
        landscape = {
            "loss": 2.0,
            "loss_min": 1.9,
            "loss_max": 1.9 + wobble * (0.1 if batch else 1),
            "gradient_change_max": wobble * (1 if batch else 5),
            "smoothness": wobble * (2 if batch else 3),
            "lipschitz": 1.0,
            "ics": wobble * (3 if batch else 2),
            "ics_cosine": (0.5 if batch else 0.9) * wobble,
            "input_shift": wobble * (0.5 if noisy else 0.1 if batch else 0.2),
        }
        accuracies = {
            "train/accuracy": (0.4 if batch else 0.3) * wobble,
            "val/accuracy": (0.5 if batch else 0.3) * wobble,
        }
        rows.append(
            {"step": step, "train/loss": 2.0, **accuracies} | {f"landscape/{k}": v for k, v in landscape.items()}
        )
    return rows


def test_the_page_on_the_landscape_decides_as_the_numbers_are(tmp_path):
    page = landscape.page(made(tmp_path, ["landscape"], looks))
    found = verdicts(page)
    assert set(found.values()) == {"holds"}
    (shift,) = [claim for claim in page.claims if "reduces internal covariate shift" in claim.text]
    assert "0.50 times as large" in shift.here
    assert any("smallest first: batch, none, batch + noise." in note for note in page.notes)
    assert page.tables[0].rows["norm"].tolist() == ["none", "batch", "batch + noise"]


def curves(name, norm, differentiate, seed):
    rows = []
    for step in (10, 20, 30):
        row = {"step": step, "val/accuracy": 0.5 + 0.01 * seed, "val/loss": 1.0, "size/linear.weight": 0.1}
        loss = {"none": 2.0, "batch": 1.0, "decorrelated_batch": 0.5}.get(norm, 1.0) + 0.01 * seed
        if name == "lost_gradient" and not differentiate:
            loss, row["size/linear.weight"] = 1.5 + 0.02 * seed, 0.2 + 0.01 * seed
        row["train/loss"] = loss
        row["size/shift"] = 0.0 if differentiate else (0.1 + 0.01 * seed) * step
        rows.append(row)
    return rows


@pytest.mark.parametrize("bent", [False, True])
def test_the_page_on_whitening_decides_as_the_numbers_are(tmp_path, bent):
    def rows(name, norm, differentiate, seed):
        found = curves(name, norm, differentiate, seed)
        if bent and name == "lost_gradient_alone" and not differentiate:
            found[-1] |= {"size/shift": found[0]["size/shift"] * (1.5 + 0.01 * seed), "train/loss": 5.0 + seed}
        return found

    page = whitening.page(made(tmp_path, whitening.SWEEPS, rows))
    found = verdicts(page)
    on_a_line = found["If a step ignores that the mean depends on a bias, the bias grows by as much in every step."]
    still = found["While such a bias grows, the loss remains fixed."]
    if bent:
        assert (on_a_line, still) == ("contradicted", "contradicted")
    else:
        assert (on_a_line, still) == ("holds", "holds")
        assert found["To decorrelate units as well makes training faster still."] == "holds"
    assert found["If the mean is differentiated, a bias before it stays where it is."] == "holds"
    assert found["In a training of all parameters a bias whose gradient ignores the mean grows as well."] == "holds"
    assert found["A training that ignores the gradient through mean and variance is the worse one."] == "holds"
    assert page.times[0].rows["ms per step"].tolist() == ["2000.0 ± 0.0 (n=3)"] * 3

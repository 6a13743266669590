"""What is printed when a training has ended."""

import pytest
from stand_ins import PlainModel, TinyModel, fit

from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.mixing import MixingValues
from training.callbacks.run_folder import RunFolder
from training.callbacks.samples import SampleImages
from training.callbacks.summary import print_summary
from training.run import Run


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "a name that is so long that it does not fit into a line of a terminal" / "version_0"
    run_dir = folder.relative_to(tmp_path)
    return run_dir, fit(run_dir, [RunFolder("name: a\n"), RunCheckpoint(5), SampleImages(5)], TinyModel())


def test_names_the_files_the_metrics_and_the_next_commands(run, capsys):
    run_dir, trainer = run
    print_summary(trainer, Run(run_dir))
    out = capsys.readouterr().out
    lines = [line.strip() for line in out.splitlines()]
    assert f"finished after step 12 of 12: {run_dir}" in lines
    (wandb,) = run_dir.glob("wandb/offline-run-*")
    files = ["checkpoints/last.ckpt", "config.yaml", "metrics.csv", "samples/step_0000012.png and 3 more"]
    assert [line for line in files if line not in lines] == []
    assert f"wandb/{wandb.name}" in lines
    assert f"{trainer.logged_metrics['val/loss']:.5g}" in out
    next_commands = lines[lines.index("next:") + 1 :]
    upload = f"wandb sync 'runs/{run_dir.parts[1]}/version_0/wandb'/offline-run-*-{wandb.name.rpartition('-')[2]}"
    assert next_commands == [f"python use.py {run_dir}", upload]


def test_what_the_layers_have_learned_can_be_looked_at_next(tmp_path, capsys):
    for model, told in ((TinyModel(), True), (PlainModel(), False)):
        run_dir = tmp_path / type(model).__name__ / "version_0"
        print_summary(fit(run_dir, [MixingValues(5)], model, max_steps=1), Run(run_dir))
        assert (f"  python analyze.py {run_dir} -o {run_dir}/report" in capsys.readouterr().out.splitlines()) == told


def test_an_interrupted_run_is_told_how_to_go_on(run, capsys):
    run_dir, trainer = run
    print_summary(trainer, Run(run_dir), interrupted=["fit"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert f"interrupted after step 12 of 12: {run_dir}" in lines
    resume = f"python train.py fit --config '{run_dir}/config.yaml' --ckpt_path '{run_dir}/checkpoints/last.ckpt'"
    assert lines[lines.index("next:") + 1] == resume
    (run_dir / "config_resumed_0000012.yaml").write_text("")
    print_summary(trainer, Run(run_dir), interrupted=["fit"])
    assert f"--config '{run_dir}/config_resumed_0000012.yaml'" in capsys.readouterr().out


def test_without_a_checkpoint_it_is_told_how_to_begin_anew(tmp_path, capsys):
    trainer = fit(tmp_path, [], max_steps=1)
    print_summary(trainer, Run(tmp_path), interrupted=["fit", "--name", "a b"])
    out = capsys.readouterr().out
    assert "next:" not in out
    assert out.splitlines()[-1] == "there is no checkpoint yet; begin anew with: python train.py fit --name 'a b'"
    assert f"interrupted after step 1 of 1: {tmp_path}" in out.splitlines()
    assert "metrics.csv" in out


def test_an_empty_folder_which_will_be_gone_is_not_named(tmp_path, capsys):
    trainer = fit(tmp_path, [], max_steps=1)
    print_summary(trainer, Run(tmp_path / "version_0"), interrupted=["fit"])
    assert "interrupted after step 1 of 1" in capsys.readouterr().out.splitlines()

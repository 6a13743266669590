"""GANs that collapse, explode or saturate: what is told, and a training that ends or goes back and on."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import wandb_stand_ins
import yaml
from processes import ended, start_two
from stand_ins import TinyData, TinyModel, fit
from torch import nn

from lightning_modules.gan import GAN
from lightning_modules.networks.gan_networks import Generator
from lightning_modules.networks.sngan import ResNet
from norms.errors import SettingError
from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.guard import Guard
from training.callbacks.run_folder import RunFolder
from training.command import main
from training.errors import TrainingError
from training.run import Run

pytestmark = pytest.mark.filterwarnings("always")  # which others take for errors

TINY = """
name: tiny
trainer: {max_steps: 16, accelerator: cpu, val_check_interval: 50, log_every_n_steps: 1, enable_progress_bar: false}
checkpoint: {every_n_train_steps: 3}
guard: {action: rollback, every_n_steps: 1}
spectral: {every_n_steps: null}
data: {class_path: stand_ins.TinyData, init_args: {batch_size: 8}}
model:
  class_path: test_guard_of_gans.Faulty
  init_args: {architecture: test_guard_of_gans.small_networks, latent_dim: 4, n_dis: 1, lr: 0.001}
"""


def small_networks(spectral="discriminator", **options):
    return ResNet(4, (4, 4), (8, 8), 1, spectral=spectral)(**options)


def free_networks(**options):
    return small_networks("none", **options)


class Deaf(Generator):
    """Hears no noise."""

    def forward(self, latents, labels=None):
        return super().forward(0 * latents, labels)


def deaf_networks(**options):
    _, discriminator = small_networks(**options)
    return Deaf(ResNet(4, (4, 4), (8, 8), 1), **options), discriminator


class Faulty(GAN):
    """Collapses in its eighth step, unless its learning rate is low."""

    fails_at = -1

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        if self.global_step >= 8 and self.hparams["lr"] >= self.settles_below:
            for parameter in self.generator.linear.parameters():
                nn.init.zeros_(parameter)
            nn.init.constant_(self.discriminator.linear.bias, -20)
        if self.global_step == self.fails_at and self.hparams["lr"] < 1e-3:
            raise RuntimeError("killed")

    settles_below = 1e-3


def events(folder):
    return [json.loads(line) for line in Run(folder).events.read_text().splitlines()]


def gan(networks=small_networks, **options):
    torch.manual_seed(0)
    return GAN(networks, **{"latent_dim": 4, "n_dis": 1, **options})


def warnings_of(recwarn):
    return [str(each.message) for each in recwarn if str(each.message).startswith("step ")]


COLLAPSES = {
    "explosion": (lambda: gan(free_networks, discriminator_lr_multiplier=1e4), "has exploded"),
    "collapse": (lambda: gan(deaf_networks), "the generator has collapsed"),
    "saturation": (
        lambda: gan(free_networks, n_dis=4, lr=1e-9, discriminator_lr_multiplier=1e7),
        "the discriminator is saturated",
    ),
}


@pytest.mark.parametrize("sign", COLLAPSES)
def test_a_provoked_collapse_is_told_of(sign, tmp_path, recwarn):
    make, reason = COLLAPSES[sign]
    model = make()
    data = TinyData(batch_size=16, batches_per_step=model.batches_per_step)
    fit(tmp_path, [Guard(every_n_steps=2)], model, max_steps=40, data=data)
    told = [event for event in events(tmp_path) if event["sign"] == sign]
    assert len(told) == 1, "once"
    assert reason in told[0]["reason"]
    assert told[0]["action"] == "warn"
    assert told[0]["values"]
    assert any(reason in message for message in warnings_of(recwarn))


def test_a_gan_in_health_has_no_sign(tmp_path, recwarn):
    fit(tmp_path, [Guard(every_n_steps=2)], gan(lr=1e-3), max_steps=60, data=TinyData(batch_size=16))
    assert not Run(tmp_path).events.exists()
    assert warnings_of(recwarn) == []


def test_what_is_seen_is_logged_and_changes_nothing(tmp_path):
    seen = fit(tmp_path / "seen", [Guard(every_n_steps=2)], gan(), max_steps=6).lightning_module.state_dict()
    blind = fit(tmp_path / "blind", [Guard(every_n_steps=None)], gan(), max_steps=6).lightning_module.state_dict()
    assert all(torch.equal(value, blind[key]) for key, value in seen.items())
    assert "guard" not in (tmp_path / "blind/metrics.csv").read_text()
    header, *rows = (tmp_path / "seen/metrics.csv").read_text().splitlines()
    names = [name for name in header.split(",") if name.startswith("guard/")]
    assert names == ["guard/diversity", "guard/learning", "guard/sigma"]
    filled = [row.split(",")[0] for row in rows if row.split(",")[header.split(",").index("guard/sigma")]]
    assert filled == ["2", "4", "6"]


def test_stop_ends_the_training_with_the_reason_and_the_command(tmp_path):
    with pytest.raises(TrainingError) as error:
        fit(tmp_path, [Guard("stop", 1), RunCheckpoint(2)], gan(deaf_networks))
    assert re.fullmatch(
        r"step 5: the generator has collapsed: .*, so the training ends; the last checkpoint, \S+last\.ckpt, is no "
        r"better; begin anew with a lower learning rate: python train\.py fit --config .* --ckpt_path null "
        r"--model\.lr=2e-05",
        str(error.value),
    )
    assert [event["action"] for event in events(tmp_path)] == ["stop"]


def test_another_advice_than_a_lower_rate_is_given_where_it_is_better(tmp_path):
    model = COLLAPSES["saturation"][0]()
    data = TinyData(batch_size=16, batches_per_step=model.batches_per_step)
    with pytest.raises(TrainingError) as error:
        fit(tmp_path, [Guard("stop", 2), RunCheckpoint(2)], model, max_steps=40, data=data)
    # From the checkpoint on it would do the same again, and a resumed run may have no other setting.
    assert re.search(
        r"the last checkpoint, \S+last\.ckpt, leads there again; a lower learning rate of the discriminator .* may do "
        r"better; begin anew, for instance with: python \S+ fit .* --ckpt_path null "
        r"--model\.discriminator_lr_multiplier=1e\+06$",
        str(error.value),
    )


def commands(capsys):
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line, shlex.split(re.search(r": python train\.py (fit .*)", line)[1])


def test_what_stop_advises_after_a_collapse_leads_to_success(folder, capsys):
    assert start("--guard.action", "stop") == 1
    line, command = commands(capsys)
    # The collapse is told at step 12, after five looks, and the checkpoint of step 9 has it already.
    assert last()["global_step"] == 9
    assert "last.ckpt, is no better; begin anew with" in line
    assert main(command) == 0
    assert last("runs/tiny/version_1")["global_step"] == 16


def test_what_a_resumed_run_advises_begins_anew(folder, capsys):
    assert start("--guard.action", "stop", "--trainer.max_steps", "6") == 0
    assert start("--guard.action", "stop", "--ckpt_path", "runs/tiny/version_0") == 1
    _, command = commands(capsys)
    assert main(command) == 0
    assert last("runs/tiny/version_1")["global_step"] == 16


def start(*options):
    Path("tiny.yaml").write_text(TINY)
    return main(["fit", "--config", "tiny.yaml", *options])


def last(folder="runs/tiny/version_0"):
    return torch.load(Path(folder) / "checkpoints/last.ckpt", weights_only=True)


def rates(state):
    return [group["lr"] for optimizer in state["optimizer_states"] for group in optimizer["param_groups"]]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    return tmp_path


def test_a_collapse_is_gone_back_from_and_the_training_ends_well(folder, capsys):
    assert start() == 0
    text = capsys.readouterr()
    assert "going back" not in text.out
    (line,) = [line for line in text.err.splitlines() if "goes back" in line]
    assert re.match(r"warning: step 12: the generator has collapsed: .*; the training goes back to step 6 and on", line)
    assert "at a learning rate of 0.0001, 1 of at most 2 times" in line
    run = Run("runs/tiny/version_0")
    (event,) = events(run.folder)
    assert [event[key] for key in ("step", "sign", "action", "to_step")] == [12, "collapse", "rollback", 6]
    assert event["lr"] == pytest.approx(1e-4)
    # The rows of the dropped steps are made anew, and no step stands there twice.
    rows = (run.metrics).read_text().splitlines()
    column = rows[0].split(",").index("train/loss_d")
    assert [row.split(",")[0] for row in rows[1:] if row.split(",")[column]] == [str(n) for n in range(1, 17)]
    assert yaml.safe_load(run.resumed_config(6).read_text())["model"]["init_args"]["lr"] == pytest.approx(1e-4)
    state = last()
    assert state["global_step"] == 16
    assert state["hyper_parameters"]["lr"] == pytest.approx(1e-4)
    assert torch.load(run.good, weights_only=True)["global_step"] == 15


def fails_when_it_resumes(method):
    def changed(self):
        if self.resumes:
            raise RuntimeError("killed")
        return method(self)

    return changed


@pytest.mark.slow
@pytest.mark.parametrize("when", ["in a later step", "before it goes on"])
def test_a_run_that_is_killed_after_it_went_back_resumes_exactly(when, folder, monkeypatch, capsys):
    assert start() == 0
    with monkeypatch.context() as patch:
        if when == "in a later step":
            patch.setattr(Faulty, "fails_at", 8)
        else:
            patch.setattr(Faulty, "configure_optimizers", fails_when_it_resumes(Faulty.configure_optimizers))
        with pytest.raises(RuntimeError, match="killed"):
            start()
    killed = Run("runs/tiny/version_1")
    assert last(killed.folder)["global_step"] == 6
    assert rates(last(killed.folder))[0] == pytest.approx(1e-3 * (1 - 6 / 16)), "of the good one, to be scaled"
    # The command that is told, and the command of before.
    command = shlex.split(killed.resume_command())[2:] if when == "in a later step" else None
    assert (main(command) if command else start("--ckpt_path", "last")) == 0
    whole, resumed = last(), last(killed.folder)
    assert rates(whole) == rates(resumed)
    assert all(torch.equal(value, resumed["state_dict"][key]) for key, value in whole["state_dict"].items())
    assert whole["callbacks"]["Guard"] == resumed["callbacks"]["Guard"]
    assert events(killed.folder) == events("runs/tiny/version_0")


@pytest.mark.slow
def test_the_best_of_what_is_dropped_is_forgotten(folder):
    options = ["--checkpoint.monitor", "val/d_real", "--checkpoint.mode", "min", "--trainer.val_check_interval", "9"]
    assert start(*options) == 0
    run = Run("runs/tiny/version_0")
    header, *rows = run.metrics.read_text().splitlines()
    column = header.split(",").index("val/d_real")
    (value,) = [float(text) for row in rows if (text := row.split(",")[column])]
    assert value > -10, "that of the collapse was about -20"
    best = json.loads(run.best_record.read_text())
    assert (best["step"], best["value"]) == (9, pytest.approx(value, rel=1e-5))


def test_after_the_most_times_the_training_ends(folder, monkeypatch, capsys):
    monkeypatch.setattr(Faulty, "settles_below", 0)
    assert start("--guard.lr_factor", "0.5") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "so the training ends; it has gone back 2 times already; the last good checkpoint is" in line
    assert re.search(r"good\.ckpt; go on with a lower learning rate: .* --ckpt_path \S+good\.ckpt ", line)
    assert [event["action"] for event in events("runs/tiny/version_0")] == ["rollback", "rollback", "stop"]
    assert [event.get("lr") for event in events("runs/tiny/version_0")] == [5e-4, 2.5e-4, None]


def test_what_is_not_finite_is_gone_back_from_too(folder, monkeypatch, capsys):
    def broken(self, images):
        return images * torch.nan if self.global_step == 8 and self.hparams["lr"] >= 1e-3 else 2 * images - 1

    monkeypatch.setattr(Faulty, "_to_model_range", broken)
    monkeypatch.setattr(Faulty, "settles_below", 1)
    assert start() == 0
    (event,) = events("runs/tiny/version_0")
    assert [event[key] for key in ("step", "sign", "action", "to_step")] == [9, "not_finite", "rollback", 6]


def test_without_a_good_checkpoint_the_training_ends(folder, capsys):
    assert start("--checkpoint.every_n_train_steps", "10") == 1
    assert "there is no good checkpoint to go back to; the last checkpoint, " in capsys.readouterr().err


def test_a_rate_that_is_set_back_by_hand_is_warned_of(folder, monkeypatch, capsys):
    assert start("--trainer.max_steps", "14") == 0
    capsys.readouterr()
    monkeypatch.setattr(Faulty, "settles_below", 1)
    assert start("--ckpt_path", "runs/tiny/version_0", "--model.lr", "0.002") == 0
    expected = "the learning rate had been lowered to 0.0001 when the training went back; this run goes on at 0.002"
    assert expected in capsys.readouterr().err


def test_a_repeated_command_goes_on_at_the_lowered_rate(folder, caplog):
    assert start("--trainer.max_steps", "14", "--guard.lr_factor", "0.5") == 0
    assert [(event["from_lr"], event["lr"]) for event in events("runs/tiny/version_0")] == [(1e-3, 5e-4)]
    caplog.set_level("INFO")
    assert start("--ckpt_path", "last", "--guard.lr_factor", "0.5") == 0
    assert "going on at the learning rate 0.0005, to which it was lowered from 0.001" in caplog.text
    assert last()["hyper_parameters"]["lr"] == 5e-4


def test_a_resumed_run_tells_the_same(tmp_path, recwarn):
    fit(tmp_path / "whole", [Guard(every_n_steps=1)], gan(deaf_networks), max_steps=8)
    fit(tmp_path / "parts", [Guard(every_n_steps=1), RunCheckpoint(3)], gan(deaf_networks), max_steps=3)
    assert not Run(tmp_path / "parts").events.exists()
    path = tmp_path / "parts/checkpoints/last.ckpt"
    torch.load(path, weights_only=True)
    fit(tmp_path / "parts", [Guard(every_n_steps=1)], gan(deaf_networks), max_steps=8, ckpt_path=path)
    (whole,), (parts,) = events(tmp_path / "whole"), events(tmp_path / "parts")
    assert (whole["step"], whole["sign"]) == (parts["step"], parts["sign"]) == (5, "collapse")


def test_events_of_steps_that_are_made_again_are_dropped(tmp_path):
    fit(tmp_path, [Guard(every_n_steps=1), RunCheckpoint(4)], gan(deaf_networks), max_steps=4)
    Run(tmp_path).events.write_text('{"step": 5}\n')
    path = tmp_path / "checkpoints/last.ckpt"
    fit(tmp_path, [Guard(every_n_steps=None)], gan(deaf_networks), max_steps=6, ckpt_path=path)
    assert events(tmp_path) == []


def test_wandb_gets_an_alert(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    fit(tmp_path, [Guard(every_n_steps=1), RunFolder("name: tiny\n")], gan(deaf_networks), max_steps=6)
    (alert,) = wandb_stand_ins.records(tmp_path, "alert")
    assert alert["title"] == "collapse at step 5"
    assert alert["text"].startswith("the generator has collapsed")
    assert alert["level"] == "WARN"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action": "stpo"}, r"unknown guard\.action 'stpo', did you mean 'stop'\? \(known: warn, stop, rollback\)"),
        ({"every_n_steps": 0}, "guard.every_n_steps must be at least 1, got 0"),
        ({"lr_factor": 1.0}, "guard.lr_factor must be above 0 and below 1, got 1.0"),
        ({"most_rollbacks": 0}, "guard.most_rollbacks must be at least 1, got 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(SettingError, match=message):
        Guard(**options)


@pytest.mark.parametrize("part", ["signs", "events", "rollbacks"])
def test_a_damaged_state_is_told_in_one_line(part):
    whole = Guard().state_dict()
    with pytest.raises(SettingError, match="what the checkpoint holds of the guard is damaged"):
        Guard().load_state_dict({**whole, part: "x"})
    with pytest.raises(SettingError, match="what the checkpoint holds of the guard is damaged"):
        Guard().load_state_dict({key: value for key, value in whole.items() if key != part})


def test_a_state_without_a_sign_of_today_will_do():
    state = Guard().state_dict()
    del state["signs"]["jump"]
    Guard().load_state_dict(state)


def test_stop_is_for_the_losses_of_any_training(tmp_path):
    class Exploding(TinyModel):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * 10**self.global_step

    with pytest.raises(
        TrainingError, match=r"step \d: the loss has exploded, from .*, so the training ends; there is no"
    ):
        fit(tmp_path, [Guard("stop")], Exploding())
    assert [event["sign"] for event in events(tmp_path)] == ["explosion"]


def test_going_back_needs_checkpoints_and_a_rate(folder, capsys):
    assert start("--trainer.enable_checkpointing", "false") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: guard.action rollback needs checkpoints: leave out trainer.enable_checkpointing: false"
    assert not Path("runs").exists()
    with pytest.raises(SettingError, match="lowers the setting lr, which TinyModel lacks"):
        fit(folder, [Guard("rollback"), RunCheckpoint(2)], TinyModel())


@pytest.mark.slow
def test_two_processes_go_back_together(folder, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    Path("tiny.yaml").write_text(TINY)
    options = ["--trainer.devices", 2, "--trainer.strategy", "ddp"]
    two = start_two("train.py", "fit", "--config", "tiny.yaml", *options)
    statuses = [ended(process, 120) for process in two]
    assert statuses == [0, 0], Path("log0.txt").read_text() + Path("log1.txt").read_text()
    (event,) = events("runs/tiny/version_0")
    assert [event[key] for key in ("step", "action", "to_step")] == [12, "rollback", 6]
    assert last()["global_step"] == 16

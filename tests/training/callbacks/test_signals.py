"""Signals: a training ends its step, saves and goes on as if there had been none."""

import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException
from stand_ins import TinyData, TinyModel, fit
from torch.utils.data import DataLoader

from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.signals import ENDING, EndOnSignal, _with_deaf_workers


def step_of(run_dir):
    return torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)["global_step"]


class At(Callback):
    """Does something when a number of steps is done."""

    def __init__(self, step, action, hook="on_train_batch_end"):
        self.step, self.action = step, action
        setattr(self, hook, self.act)

    def act(self, trainer, *_, **__):
        if trainer.global_step == self.step:
            self.action()


def stopped(run_dir, *actions, status=None, model=None, **options):
    """Train with actions, of which one ends the training."""
    signals = EndOnSignal()
    with pytest.raises(SystemExit) as error, signals.installed():
        fit(run_dir, [signals, RunCheckpoint(options.pop("every", 100)), *actions], model, **options)
    if status is not None:
        assert isinstance(error.value, SIGTERMException)
        assert error.value.code == status
    return error.value


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("step", [3, 5], ids=["plain", "with validation"])
def test_ends_the_step_and_saves(tmp_path, number, step, capfd):
    before = signal.getsignal(number)
    validated = []
    note = At(step, lambda: validated.append(step), "on_validation_end")
    send = At(step - 1, lambda: signal.raise_signal(number), "on_before_backward")
    stopped(tmp_path, send, note, status=128 + number)
    assert signal.getsignal(number) is before
    assert step_of(tmp_path) == step
    assert validated == [step] * (step == 5)
    assert "ending after this step" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("step", "hook", "saved"),
    [
        (5, "on_validation_start", 5),
        (4, "on_train_batch_end", 4),
        (8, "on_save_checkpoint", 9),
        (0, "on_train_start", None),
        (0, "setup", None),
    ],
)
def test_ends_well_at_any_moment(tmp_path, step, hook, saved):
    action = At(step, lambda: signal.raise_signal(signal.SIGTERM), hook)
    stopped(tmp_path, action, status=143, every=4)
    assert (step_of(tmp_path) if saved else None) == saved
    assert (tmp_path / "checkpoints").exists() == bool(saved)


def test_one_that_comes_when_all_is_done_changes_nothing(tmp_path):
    signals = EndOnSignal()
    with signals.installed():
        fit(tmp_path, [signals, RunCheckpoint(5), At(12, lambda: signal.raise_signal(signal.SIGTERM))])
    assert step_of(tmp_path) == 12


def test_an_accumulated_gradient_is_not_cut_in_two(tmp_path):
    class Second(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if batch_idx == 6:  # the first half of step 4
                signal.raise_signal(signal.SIGTERM)

    stopped(tmp_path, Second(), status=143, accumulate_grad_batches=2)
    assert step_of(tmp_path) == 4


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    stopped(tmp_path, At(3, twice, "on_train_batch_start"), every=2)
    assert step_of(tmp_path) == 2


def test_ctrl_c_before_the_first_step_ends_at_once(tmp_path):
    stopped(tmp_path, At(0, lambda: signal.raise_signal(signal.SIGINT), "on_fit_start"))
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("step", [4, 5, 7])
def test_a_run_resumed_after_a_signal_ends_as_if_there_had_been_none(tmp_path, step):
    # 5 is a step with validation, after which Lightning's own count of steps would be one off.
    model = TinyModel()
    initial = {key: value.clone() for key, value in model.state_dict().items()}
    fit(tmp_path / "whole", [RunCheckpoint(100)], model)
    other = TinyModel()
    other.load_state_dict(initial)
    stopped(tmp_path / "other", At(step, lambda: signal.raise_signal(signal.SIGTERM)), model=other)
    resumed = TinyModel()
    fit(tmp_path / "other", [RunCheckpoint(100)], resumed, ckpt_path=tmp_path / "other/checkpoints/last.ckpt")
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in resumed.state_dict().items())
    assert (tmp_path / "other/metrics.csv").read_text() == (tmp_path / "whole/metrics.csv").read_text()


def test_what_was_ignored_stays_ignored():
    # As by nohup, which keeps a training alive when its terminal closes.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with EndOnSignal().installed():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_of_the_main_thread_nothing_is_installed_and_all_goes_well(tmp_path):
    seen = []

    def train():
        signals = EndOnSignal()
        with signals.installed():
            note = At(1, lambda: seen.append([signal.getsignal(number) for number in ENDING]))
            fit(tmp_path, [signals, RunCheckpoint(5), note], max_steps=3)

    before = [signal.getsignal(number) for number in ENDING]
    thread = threading.Thread(target=train)
    thread.start()
    thread.join(60)
    assert seen == [before]
    assert step_of(tmp_path) == 3


class Workers(Callback):
    """Sends a signal to the workers of the data, and to this process or not."""

    def __init__(self, number, *others):
        self.number, self.others = number, others

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 2:
            workers = multiprocessing.active_children()
            assert len(workers) == 2
            for worker in workers:
                os.kill(worker.pid, self.number)
            time.sleep(0.2)
            for pid in self.others:
                os.kill(pid, self.number)


@pytest.mark.parametrize("number", ENDING)
def test_the_workers_of_the_data_pass_over_it(tmp_path, number):
    data = TinyData(num_workers=2)
    stopped(tmp_path, Workers(number, os.getpid()), status=128 + number, data=data)
    assert step_of(tmp_path) == 3


def test_a_worker_that_hangs_can_still_be_ended():
    data = TinyData(num_workers=1)
    data.trainer = Trainer(logger=False, accelerator="cpu")
    data.trainer.datamodule = data
    EndOnSignal().setup(data.trainer, TinyModel(), "fit")
    iterator = iter(data.train_dataloader())
    next(iterator)
    (worker,) = iterator._workers
    worker.terminate()
    worker.join(0.3)
    assert worker.is_alive()
    worker.terminate()
    with suppress(RuntimeError):  # by which torch tells the main process of it, if that looks in time
        worker.join(10)
    worker.join(10)
    assert not worker.is_alive()


def test_workers_that_are_left_end_with_a_training_that_ends_well():
    loader = DataLoader(range(4), num_workers=1, persistent_workers=True)
    with EndOnSignal().installed():
        next(iter(loader))  # as for a sample picture, before any validation
        assert len(multiprocessing.active_children()) == 1
    assert not multiprocessing.active_children()


def test_what_else_workers_do_at_their_start_is_kept():
    noted = []
    loader = DataLoader([1], worker_init_fn=noted.append)
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        _with_deaf_workers(lambda: {"a": [loader]})()["a"][0].worker_init_fn(7)
        assert [signal.getsignal(number) for number in ENDING] != list(before.values())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert noted == [7]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SIGTERMException, RuntimeError])
def test_workers_that_are_left_end_with_an_interrupted_training_and_without_an_error(error):
    [loader] = _with_deaf_workers(lambda: [DataLoader([0] * 100, num_workers=2)])()
    iterator = iter(loader)
    next(iterator)
    handler = signal.getsignal(signal.SIGCHLD)
    for worker in multiprocessing.active_children():
        worker.terminate()  # the first SIGTERM, of the process group
    with pytest.raises(error), EndOnSignal().installed():
        raise error
    assert multiprocessing.active_children() == []
    assert signal.getsignal(signal.SIGCHLD) is handler
    signal.raise_signal(signal.SIGCHLD)  # by which torch would tell of a worker that was killed


@pytest.mark.parametrize("number", ENDING)
def test_one_process_of_several_tells_of_a_signal(tmp_path, number, capfd):
    for tells in (True, False):
        signals = EndOnSignal()
        with pytest.raises(SIGTERMException), signals.installed(tells=tells):
            fit(tmp_path, [signals, At(1, lambda: signal.raise_signal(number))], max_steps=4)
        assert ("ending after this step" in capfd.readouterr().err) is tells

"""A sweep on disk: what is trained, what is skipped, what goes on, and what several workers do at once."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml
from processes import ended, start

from sweeping import runner, search
from sweeping.command import main
from sweeping.runner import Runner
from sweeping.runs import RECORD, claim, is_claimed
from sweeping.sweep_file import read_sweep

STUB = Path(__file__).with_name("stub.py")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_sweep(seeds=3, words=(), **changes):
    content = {
        "method": "grid",
        "program": str(STUB),
        "command": ["${interpreter}", "${program}", "--steps", "5", *words, "${args}"],
        "metric": {"name": "val/loss"},
        "parameters": {"seed": {"values": [*range(seeds)]}},
        **changes,
    }
    Path("small.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def sweep(*arguments):
    return main(["small.yaml", *arguments])


def folders():
    return sorted(path for path in Path("runs/small").iterdir() if path.is_dir())


def steps(folder):
    return (folder / "version_0/steps.txt").read_text().split()


def starts(folder):
    return len((folder / "starts.txt").read_text().split())


def record(folder):
    return json.loads((folder / "sweep.json").read_text())


def change(folder, **changes):
    (folder / "sweep.json").write_text(json.dumps({**record(folder), **changes}))


def wait_for(found, process=None, seconds=60):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, Path("log.txt").read_text() if process else "nothing happens"
        time.sleep(0.01)


def ends_after(folder):
    """Wait until no process of a run lives that holds its claim."""
    wait_for(lambda: not is_claimed(folder))


def test_runs_whose_norms_learn_no_mixture_are_not_to_be_analyzed(capsys):
    write_sweep(seeds=1, words=["--plain", "1"])
    assert sweep() == 0
    assert capsys.readouterr().out.endswith("1 of 1 runs are finished: runs/small\n")


def test_all_runs_are_trained_once_and_listed(capsys):
    write_sweep(words=["--value", "0.25"])
    assert sweep() == 0
    assert [folder.name for folder in folders()] == ["001-seed_0", "002-seed_1", "003-seed_2"]
    assert [steps(folder) for folder in folders()] == [["0", "1", "2", "3", "4"]] * 3
    assert [record(folder)["state"] for folder in folders()] == ["finished"] * 3
    out = capsys.readouterr().out
    assert "run 1 of 3, seed_0: begins; its output: runs/small/001-seed_0/output.txt" in out
    assert re.search(r"run 2 of 3, seed_1: begins, about \d s left;", out)
    # The best value, not the last, and not one that is none.
    assert re.search(r"run 3 of 3, seed_2: finished after \d s, val/loss 0.25\n", out)
    assert "3 of 3 runs are finished: runs/small\nnext:\n  python analyze.py runs/small -o report/" in out
    assert sweep() == 0
    assert [starts(folder) for folder in folders()] == [1] * 3
    assert "begins" not in capsys.readouterr().out


def test_a_grid_that_grows_keeps_what_is_there(capsys):
    write_sweep(seeds=1)
    assert sweep() == 0
    write_sweep(seeds=3)
    assert sweep() == 0
    assert [starts(folder) for folder in folders()] == [1] * 3
    write_sweep(seeds=2)
    capsys.readouterr()
    assert sweep() == 0
    assert "2 of 2 runs are finished" in capsys.readouterr().out


def test_a_run_that_was_killed_goes_on_from_its_checkpoint():
    write_sweep()
    assert sweep() == 0
    first, second, third = folders()
    for folder in folders():
        change(folder, state="begun")
    (first / "version_0/checkpoints/last.ckpt").write_text("2")
    shutil.rmtree(third / "version_0/checkpoints")
    assert sweep() == 0
    assert steps(first) == ["0", "1", "2", "3", "4", "2", "3", "4"]
    assert (starts(second), len(steps(second))) == (2, 5)  # the checkpoint was its last
    assert steps(third) == ["0", "1", "2", "3", "4"]  # without one it began anew, and nothing of before is left
    assert [record(folder)["state"] for folder in folders()] == ["finished"] * 3


def test_failures_stop_nothing_are_told_in_the_end_and_tried_again(capsys):
    write_sweep(parameters={"seed": {"values": [0, 1]}, "fail": {"values": [1, 0]}})
    assert sweep() == 1
    out, err = capsys.readouterr()
    assert [record(folder)["state"] for folder in folders()] == ["failed", "finished", "failed", "finished"]
    assert "run 1 of 4, seed_0 fail_1: failed: step 0\n" in out
    assert "2 of 4 runs are finished" in out
    assert "runs/small/003-seed_1-fail_1 failed: step 0\n" in out
    assert err == "error: 2 of 4 runs failed; to try them again: python sweep.py small.yaml\n"
    Path("mended").touch()
    assert sweep() == 0
    assert [starts(folder) for folder in folders()] == [2, 1, 2, 1]


def test_a_training_that_is_killed_is_told():
    write_sweep(seeds=1, words=["--seconds", "30"])
    starts_file = Path("runs/small/001/starts.txt")
    process = start("sweep.py", "small.yaml")
    wait_for(lambda: starts_file.is_file() and starts_file.read_text(), process)
    os.kill(int(starts_file.read_text()), signal.SIGKILL)
    assert ended(process) == 1
    assert "run 1 of 1: failed: it was ended by SIGKILL" in Path("log.txt").read_text()


def test_other_commands_for_the_same_runs_are_refused(capsys):
    write_sweep()
    assert sweep() == 0
    assert sweep("--", "--value", "3") == 2
    told = capsys.readouterr().err
    assert "runs/small/001-seed_0 has begun by another command, python" in told
    assert "--seed=0 --value 3: give another --runs_dir, or delete runs/small" in told
    assert sweep("--runs_dir", "others", "--", "--value", "3") == 0
    assert Path("others/small/003-seed_2/version_0").is_dir()


def test_a_dry_run_lists_commands_and_makes_nothing(capsys):
    write_sweep(seeds=2)
    assert sweep("--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"python {STUB} --steps 5 --seed=0 --runs_dir runs/small --name 001-seed_0",
        f"python {STUB} --steps 5 --seed=1 --runs_dir runs/small --name 002-seed_1",
    ]
    assert not Path("runs").exists()
    assert sweep() == 0
    capsys.readouterr()
    write_sweep(seeds=3)
    assert sweep("--dry-run") == 0
    ends = [line.partition("--name ")[2] for line in capsys.readouterr().out.splitlines()]
    assert ends == ["001-seed_0 --ckpt_path last  # finished", "002-seed_1 --ckpt_path last  # finished", "003-seed_2"]


def test_drawn_runs_are_those_of_the_dry_run(capsys):
    pytest.importorskip("optuna")
    write_sweep(method="random", run_cap=3, parameters={"value": {"min": 0.0, "max": 1.0}})
    assert sweep("--dry-run") == 0
    names = re.findall(r"--name (\S+)", capsys.readouterr().out)
    assert sweep() == 0
    assert [folder.name for folder in folders()] == names
    changes = {"run_cap": 4, "early_terminate": {"type": "hyperband", "min_iter": 3}}
    write_sweep(method="bayes", parameters={"value": {"min": 0.0, "max": 1.0}}, **changes)
    capsys.readouterr()
    assert sweep() == 0
    assert len(folders()) == 4
    out, err = capsys.readouterr()
    assert out.startswith("early_terminate is left to W&B")
    assert err == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_training_saved_and_the_command_goes_on(number):
    write_sweep(seeds=2, words=["--seconds", "0.2"])
    process = start("sweep.py", "small.yaml")
    first = Path("runs/small/001-seed_0")
    wait_for((first / "version_0/checkpoints/last.ckpt").is_file, process)
    os.kill(process.pid, number)
    assert ended(process) == 128 + number
    log = Path("log.txt").read_text()
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert f"{name}: each training ends after this step, saved" in log
    assert log.endswith(f"interrupted by {name}: 0 of 2 runs are finished; go on with: python sweep.py small.yaml\n")
    assert [folder.name for folder in folders()] == ["001-seed_0"]
    assert record(first)["state"] == "begun"
    assert sweep() == 0
    assert [steps(folder) for folder in folders()] == [["0", "1", "2", "3", "4"]] * 2
    assert record(first)["seconds"] > 1


def test_several_workers_train_at_once_and_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(runner.torch.cuda, "device_count", lambda: 0)
    write_sweep(seeds=4, words=["--seconds", "0.2"])
    assert sweep("--workers", "2") == 0
    assert [(folder / "threads.txt").read_text() for folder in folders()] == ["4"] * 4
    first, second, *_ = folders()
    assert (second / "starts.txt").stat().st_mtime < record(first)["ended"]
    assert [starts(folder) for folder in folders()] == [1] * 4


@pytest.mark.parametrize(("visible", "expected"), [(None, ["0", "1", "0"]), ("5,7", ["5", "7", "5"])])
def test_each_worker_takes_a_gpu_in_turn(visible, expected, monkeypatch):
    monkeypatch.setattr(runner.torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    write_sweep()
    several = Runner(read_sweep(Path("small.yaml")), Path("runs"), workers=3)
    assert [several._share(worker) for worker in range(3)] == [{"CUDA_VISIBLE_DEVICES": each} for each in expected]
    assert Runner(several.sweep, Path("runs"))._share(0) == {}


def trains_now(log):
    """Return the folder of the run that a worker is in the middle of, or None."""
    text = Path(log).read_text() if Path(log).exists() else ""
    begun = re.findall(r"begins.*; its output: (\S+)/output.txt", text)
    folder = Path(begun[-1]) if begun else None
    in_it = folder and (folder / "version_0/checkpoints/last.ckpt").is_file() and len(steps(folder)) < 3
    return folder if in_it else None


@pytest.mark.slow
def test_of_three_workers_one_dies_with_its_machine_and_all_runs_are_done_once():
    """The workers are tasks of SLURM, for which their runs must not take themselves."""
    write_sweep(seeds=24, words=["--seconds", "0.05"])
    tasks = [{"SLURM_NTASKS": "3", "SLURM_PROCID": str(number)} for number in range(3)]
    workers = [start("sweep.py", "small.yaml", log=f"log{n}.txt", **task) for n, task in enumerate(tasks)]
    wait_for(lambda: Path("runs/small").is_dir() and len(folders()) > 7)
    busy = {}
    wait_for(lambda: busy.update({n: run for n in range(3) if (run := trains_now(f"log{n}.txt"))}) or busy)
    number, lost = busy.popitem()
    killed = workers.pop(number)
    killed.kill()  # SIGKILL
    os.kill(int((lost / "starts.txt").read_text()), signal.SIGKILL)
    assert ended(killed) == -signal.SIGKILL
    assert [ended(worker, timeout=120) for worker in workers] == [0, 0]
    assert len(folders()) == 24
    assert {record(folder)["settings"]["seed"] for folder in folders()} == {*range(24)}
    assert [record(folder)["state"] for folder in folders()] == ["finished"] * 24
    assert [starts(folder) for folder in folders() if folder != lost] == [1] * 23
    assert starts(lost) == 2  # the second time by another worker, from the checkpoint on
    assert [steps(folder) for folder in folders() if folder != lost] == [["0", "1", "2", "3", "4"]] * 23
    assert sorted({*steps(lost)}) == ["0", "1", "2", "3", "4"]
    logs = [Path(f"log{each}.txt").read_text() for each in range(3)]
    assert "goes on from its checkpoint" not in logs.pop(number)
    assert sum(log.count("goes on from its checkpoint") for log in logs) == 1
    assert "finished after" in logs[0] + logs[1]
    assert [(folder / "slurm.txt").read_text() for folder in folders()] == [""] * 24


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("rw,vers=3,nolock,local_lock=all", "nolock"),
        ("rw,vers=4.2,local_lock=none", ""),
        ("rw,localflock", "localflock"),
        ("rw,flock", ""),
    ],
)
def test_locks_that_no_other_machine_sees_are_told(options, told, capsys, tmp_path, monkeypatch):
    mounts = [
        "22 1 8:1 / / rw - ext4 /dev/sda rw,nolock",
        f"36 22 0:31 / {tmp_path} rw,noatime shared:1 - nfs a:/b {options}",
    ]
    Path("mounts").write_text("\n".join([*mounts, f"40 36 0:40 / {tmp_path}/run rw - tmpfs tmpfs rw,nolock\n"]))
    monkeypatch.setattr("sweeping.runs.MOUNTS", Path("mounts"))
    write_sweep(seeds=1)
    assert sweep() == 0
    expected = f"warning: runs/small is mounted with {told}: no other machine sees that a run is taken, so start this "
    err = capsys.readouterr().err
    assert err.startswith(expected) if told else err == ""
    monkeypatch.setattr("sweeping.runs.MOUNTS", Path("nowhere"))
    assert sweep() == 0
    assert capsys.readouterr().err == ""


def test_a_run_whose_worker_was_killed_is_taken_until_its_training_ends():
    write_sweep(seeds=2, words=["--seconds", "0.4"])
    process = start("sweep.py", "small.yaml")
    first = Path("runs/small/001-seed_0")
    wait_for((first / "version_0/steps.txt").is_file, process)
    process.kill()
    assert ended(process) == -signal.SIGKILL
    assert sweep() == 0
    assert steps(first) == steps(Path("runs/small/002-seed_1")) == ["0", "1", "2", "3", "4"]


def test_runs_that_a_network_file_system_lists_late_are_not_begun_twice(monkeypatch):
    write_sweep()
    assert sweep() == 0
    change(folders()[1], state="begun")
    real = runner.read_runs
    for module in (runner, search):
        monkeypatch.setattr(module, "read_runs", lambda folder: real(folder)[:1])
    write_sweep(seeds=4)
    assert sweep() == 0
    assert [(folder.name, starts(folder)) for folder in folders()] == [
        ("001-seed_0", 1), ("002-seed_1", 1), ("003-seed_2", 1), ("004-seed_3", 1)
    ]  # fmt: skip


def test_a_damaged_record_is_told(capsys):
    write_sweep(seeds=1)
    assert sweep() == 0
    for text in ("{", "[]", '{"state": 3}'):
        (folders()[0] / "sweep.json").write_text(text)
        assert sweep() == 2
        assert "runs/small/001/sweep.json is damaged: delete it with its folder" in capsys.readouterr().err


def test_a_program_that_is_not_there_is_told_before_anything_is_made(capsys):
    write_sweep(program="none.py")
    assert sweep() == 2
    assert capsys.readouterr().err == "error: program: there is no none.py here; change into the folder that has it\n"
    assert not Path("runs").exists()


def test_a_folder_that_cannot_be_written_is_told(capsys):
    write_sweep()
    Path("runs").touch()
    assert sweep() == 2
    assert capsys.readouterr().err == "error: cannot write into runs/small: Not a directory\n"


def test_a_run_that_ends_while_it_is_looked_at_is_not_trained_again(monkeypatch):
    write_sweep(seeds=2)
    assert sweep() == 0
    first, *_ = folders()
    finished = (first / RECORD).read_text()
    (first / RECORD).write_text(finished.replace('"finished"', '"begun"'))

    def late(folder):
        (first / RECORD).write_text(finished)  # by the process that has trained it
        return claim(folder)

    monkeypatch.setattr("sweeping.runner.claim", late)
    assert sweep() == 0
    assert [starts(folder) for folder in folders()] == [1, 1]

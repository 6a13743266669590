"""Output whose reader goes away."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from training.terminal import LastingStream, lasting_output

ROOT = Path(__file__).parents[2]
TALK = """
import sys
from training.terminal import lasting_output
with lasting_output():
    print("ready", flush=True)
    sys.stdin.read()
    for _ in range(3):
        print("more", flush=True)
        print("more", file=sys.stderr)
open("done", "w").close()
"""


def test_writes_what_can_be_written(capsys):
    with lasting_output():
        print("out")
        print("err", file=sys.stderr)
        assert sys.stdout.isatty() is False
    assert capsys.readouterr() == ("out\n", "err\n")
    assert not isinstance(sys.stdout, LastingStream)


def test_drops_what_a_full_disk_does_not_take(tmp_path):
    with open("/dev/full", "w") as full:
        stream = LastingStream(full)
        print("lost", file=stream, flush=True)
        target = os.readlink(f"/proc/self/fd/{full.fileno()}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # so that it can be closed
    assert target == "/dev/full"


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_a_reader_that_goes_away_ends_nothing(tmp_path, kind):
    reader, writer = os.pipe() if kind == "pipe" else pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", TALK],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=writer,
        stderr=writer,
    )
    os.close(writer)
    assert os.read(reader, 5) == b"ready"
    os.close(reader)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "done").exists()

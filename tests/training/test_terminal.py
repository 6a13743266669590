"""Names are printed, never obeyed, and output outlives its reader."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from norms.errors import SettingError
from training.doors import end_in_one_line
from training.terminal import LastingStream, lasting_output, printable

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


@pytest.mark.parametrize("text", ["", "runs/style/version_0", "Größe 日本 🎨", r"$\frac{x$", "=cmd|' /C calc'!A0"])
def test_what_can_be_seen_stays(text):
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),
        ("a\r\nb\x07\x08", r"a\r\nb\x07\x08"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), r"caf\udce9"),
    ],
    ids=["escape code", "of eight bits", "line breaks and bells", "turned around", "no text"],
)
def test_what_a_terminal_would_obey_is_written_out(text, shown):
    assert printable(text) == shown


def test_mistakes_are_printed_so(capfd):
    def fail():
        raise SettingError("no such run:\n\x1b]0;owned\x07\udce9")

    assert end_in_one_line(fail) == 2
    assert capfd.readouterr() == ("", "error: no such run: \\x1b]0;owned\\x07\\udce9\n")

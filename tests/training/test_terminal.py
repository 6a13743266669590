"""Names are printed, never obeyed."""

import pytest

from norms.errors import SettingError
from training.doors import end_in_one_line
from training.terminal import printable


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

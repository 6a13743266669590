"""Checks of YAML before it is loaded."""

import pytest
import yaml
from jsonargparse import get_loader

from training.yaml_text import YAMLRefusedError, check_yaml, load_checked_yaml, whole_number, with_whole_numbers

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "\n".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]" for before, after in zip("abcdef", "bcdefg", strict=True)
)

REFUSED = {
    "a: 1\nb: 2\na: 3": "^line 3: the key 'a' is there twice$",
    "x:\n  a: {b: 1, c: 2, b: 3}": "^line 2: the key 'b' is there twice$",
    "- a: 1\n  'a': 2": "^line 2: the key 'a' is there twice$",
    "[" * 51 + "]" * 51: "nested deeper than 50 levels",
    "{a: " * 51 + "1" + "}" * 51: "nested deeper than 50 levels",
    "\n".join(" " * n + "a:" for n in range(60)): "nested deeper than 50 levels",
    BOMB: "^line 5: aliases that stand for more than 100000 values$",
    "a: &a [*a]": "the alias 'a' stands for nothing, or for what it is part of",
    "a: &a {b: {c: *a}}": "the alias 'a' stands for nothing, or for what it is part of",
    "lr: " + "9" * 5000: "a number of 5000 digits",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items(), ids=range(len(REFUSED)))
def test_what_is_refused(text, message):
    with pytest.raises(YAMLRefusedError, match=message):
        check_yaml(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: {b: 1}\nc: {b: 2}",
        "[" * 50 + "]" * 50,
        "a: &a [1, 2]\nb: [*a, *a]",
        "base: &base {a: 1}\nb:\n  <<: *base\n  a: 2",
        "- {a: 1}\n- {a: 1}",
        "a: '" + "9" * 5000 + "'",
        "",
    ],
)
def test_what_is_taken(text):
    check_yaml(text)


def test_what_is_no_yaml():
    with pytest.raises(yaml.YAMLError) as error:
        check_yaml("a: [1,\n b: {")
    assert not isinstance(error.value, YAMLRefusedError)


@pytest.mark.parametrize(
    ("text", "whole"),
    [("1e3", "1000"), ("-2E2", "-200"), ("1.5e1", "15"), ("5e+0", "5"), ("1.5e0", None), ("1e-3", None), ("1e99", None),
     ("1e999999", None), ("1000", None), ("e3", None), ("0x1e3", None)],
)  # fmt: skip
def test_whole_numbers(text, whole):
    assert whole_number(text) == whole


def test_whole_numbers_within_yaml():
    text = "é: 1e3 # 1e3\nname: '1e3'\nlr: 1e-3\nwidths: [1e1, 2.5e1, 2.55e1, 1e2x]"
    assert with_whole_numbers(text) == "é: 1000 # 1e3\nname: '1e3'\nlr: 1e-3\nwidths: [10, 25, 2.55e1, 1e2x]"


def test_numbers_to_the_base_of_60_are_texts():
    text = "a: 1:30\nb: {eps: 1:30.5, c: [-1:00:00, '1:30']}\nd: x1:30\ne: 1:99\nf: 00:00:01:00\ng: [12, 1.5, 0x1F]"
    load_checked_yaml()
    inner = {"eps": "1:30.5", "c": ["-1:00:00", "1:30"]}
    expected = {"a": "1:30", "b": inner, "d": "x1:30", "e": "1:99", "f": "00:00:01:00", "g": [12, 1.5, 31]}
    assert get_loader("yaml")(text) == expected

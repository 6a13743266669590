import re
from pathlib import Path

import pytest

from norms.errors import SettingError
from training.paths import local_path


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("runs", "runs"),
        ("/a/b c", "/a/b c"),
        ("~/runs", f"{Path.home()}/runs"),
        ("~", str(Path.home())),
        ("a/~/b", "a/~/b"),
        ("file:///a/b%20c", "/a/b c"),
        ("file://localhost/a", "/a"),
        ("file:/a", "/a"),
        ("C:/runs", "C:/runs"),
        ("a:b", "a:b"),
        ("", ""),
    ],
)
def test_are_read_by_one_rule(path, read):
    assert local_path("runs_dir", path) == read


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a::b", "runs_dir: 'a::b' has '::' in it"),
        ("file:///a::b", "runs_dir: '/a::b' has '::' in it"),
        ("s3://bucket/runs", "runs_dir: s3://bucket/runs is an address by s3; give the path of a local folder"),
        ("file://host/runs", "runs_dir: file://host/runs is on another machine"),
        ("~nobody-of-this-name/runs", "runs_dir: there is no home folder ~nobody-of-this-name"),
    ],
)
def test_that_cannot_be_read_are_refused(path, message):
    with pytest.raises(SettingError, match=re.escape(message)):
        local_path("runs_dir", path)

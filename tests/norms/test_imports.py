"""What class paths may lead to, where a stranger may have written them."""

import pytest

import norms
from norms.errors import SettingError
from norms.imports import only_from, resolve


def test_everything_may_be_named_by_the_user():
    assert resolve("thing", "collections.OrderedDict").__name__ == "OrderedDict"


def test_only_what_is_trusted_may_be_named_by_others():
    with only_from(["norms", "collections.abc"], "--trust"):
        assert resolve("norm", "norms.BatchNorm2d") is norms.BatchNorm2d
        assert resolve("thing", "collections.abc.Mapping").__name__ == "Mapping"
        assert resolve("thing", "name", {"name": 1}) == 1
        for path in ("os.system", "norms.imports.importlib.import_module", "normsx.A", "collections.OrderedDict"):
            with pytest.raises(SettingError, match=r"is not trusted \(to trust it: --trust [a-z]+\)"):
                resolve("thing", path)
    assert resolve("thing", "os.path.join")

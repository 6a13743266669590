import os

import pytest


@pytest.fixture(autouse=True)
def _without_wandb_account(monkeypatch, tmp_path_factory):
    """No test finds the W&B account of who runs it."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    folder = tmp_path_factory.mktemp("wandb-user")
    for name in ("NETRC", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(folder / name))

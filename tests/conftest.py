import errno
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings

# Tests are small and run in several processes, whose threads would only wait for each other. Set before torch looks.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes depends on what else the machine does.
settings.register_profile("normlab", deadline=None)
settings.load_profile("normlab")

# onnxruntime would report its import over the network.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# The tests mirror the packages, so that the folders in here bear their names: the packages must be found first.
sys.path.insert(0, str(Path(__file__).parents[1]))


def _end_wandb():
    """End W&B's process, which at times does not end by itself when its server is gone."""

    def end():
        with suppress(Exception):
            sys.modules["wandb"].teardown()

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    ending.join(15)
    if ending.is_alive():
        for children in Path("/proc/self/task").glob("*/children"):
            for pid in children.read_text().split():
                if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(int(pid), signal.SIGKILL)
        ending.join(15)


@pytest.fixture(autouse=True)
def _without_wandb_account(monkeypatch, tmp_path_factory):
    """No test finds the W&B account of who runs it, nor W&B as the test before has left it."""
    # For good: a service that an earlier test has ended would be restored with the rest.
    os.environ.pop("WANDB_SERVICE", None)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    folder = tmp_path_factory.mktemp("wandb-user")
    for name in ("NETRC", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(folder / name))
    yield
    if "wandb" in sys.modules:
        _end_wandb()
    os.environ.pop("WANDB_SERVICE", None)


@pytest.fixture
def close_folders(monkeypatch):
    """Let nobody look into folders of a name, not even root."""
    scan = os.scandir

    def close(name):
        def closed(path):
            if os.path.basename(path) == name:
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return scan(path)

        monkeypatch.setattr(os, "scandir", closed)

    return close

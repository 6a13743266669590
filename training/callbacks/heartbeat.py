"""What processes on several hosts hear of each other, since a host that is gone or cut off closes no connection."""

import os
import socket
import threading
from contextlib import suppress
from datetime import timedelta

from torch.distributed import TCPStore

BEAT = 1.0
"""Seconds between two beats."""

DONE = 2**40
"""Far more beats than a training has; added by a process that has done all of it, and may be silent."""


class Heartbeat:
    """Count up in torch's store, from a thread, and read there what others count.

    The first process hears all others, and each of them hears the first, so that n processes need about 2n requests a
    second. A request that gets no answer is a silence of all.

    Args:
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        self._rank = rank
        others = [0] if rank else range(1, world_size)
        self._heard, self._counts = dict.fromkeys(others, 0), dict.fromkeys(others, 0)
        self._silences = dict.fromkeys(others, 0.0)
        self._hosts: dict[int, str] = {}
        self._over = threading.Event()
        self._done = False
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def silence(self, passed: float) -> tuple[str, float]:
        """Return which process has been silent for longest, and for how many seconds.

        Args:
            passed: Seconds since the last call in which this process has run, which are fewer than those of a clock if
                it was stopped, as by Ctrl-Z.
        """
        for rank, count in self._counts.items():
            silent = count == self._heard[rank] and count < DONE
            self._silences[rank] = self._silences[rank] + passed if silent else 0.0
            self._heard[rank] = count
        rank = max(self._silences, key=self._silences.__getitem__)
        host = f" on {self._hosts[rank]}" if rank in self._hosts else ""
        return f"process {rank}{host}", self._silences[rank]

    def end(self, done: bool) -> None:
        """Be silent from now on; ``done`` tells the others that nothing is wrong with that."""
        self._done = self._done or done
        self._over.set()
        self._thread.join(BEAT)

    def _beat(self) -> None:
        # Counts of processes that these ones follow after a restart are in the same store: only a change is a beat.
        with suppress(RuntimeError):
            address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            # A connection of its own: the main thread holds that of the process group while it waits.
            store = TCPStore(*address, is_master=False, wait_for_workers=False, timeout=timedelta(minutes=1))
            store.set(f"normlab/host/{self._rank}", socket.gethostname())
            while True:
                store.add(f"normlab/beat/{self._rank}", 1)
                for rank in self._counts:
                    self._counts[rank] = store.add(f"normlab/beat/{rank}", 0)
                    if self._counts[rank] and rank not in self._hosts:
                        self._hosts[rank] = store.get(f"normlab/host/{rank}").decode()
                if self._over.wait(BEAT):
                    break
            if self._done:
                store.add(f"normlab/beat/{self._rank}", DONE)

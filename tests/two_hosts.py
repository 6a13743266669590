"""Two hosts on one machine: network namespaces with a link between them, and ``torchrun`` in each, quickly started."""

import ctypes
import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

from processes import CONTEXT, ROOT, _run
from stand_ins import Images

from data.module import ImageDataModule

ADDRESSES = "10.77.0.1", "10.77.0.2"
LINK = "link0"


class TinyStream(ImageDataModule):
    """Images of 8 x 8, of which each process takes its own."""

    native_size = 8

    def load(self):
        return Images(), Images()


class Hosts:
    """Two hosts with a link between them, which end with the processes that hold them."""

    def __init__(self, holders, with_users):
        self.holders, self.with_users = [holder.pid for holder in holders], with_users

    @classmethod
    @contextmanager
    def made(cls):
        """Make them, as root or, where that is allowed, as the root of a namespace of users; OSError if neither is."""
        for users in (["--user", "--map-root-user"], []):
            with ExitStack() as stack:
                first = _held(stack, ["unshare", *users, "--net"])
                hosts = cls([first], bool(users))
                try:
                    hosts.holders.append(_held(stack, [*hosts.entered(0, net=False), "unshare", "--net"]).pid)
                    hosts._connect()
                except OSError:
                    continue
                yield hosts
                return
        raise OSError("network namespaces can be made neither by this user nor in a namespace of users")

    def entered(self, host, net=True):
        """Return the words before a command that run it on a host."""
        options = ["--user", "--preserve-credentials"] * self.with_users + ["--net"] * net
        return ["nsenter", "--target", str(self.holders[host]), *options] if options else []

    def enter(self, host):
        """Go to a host with this process, which has one thread."""
        for kind in ["user"] * self.with_users + ["net"]:
            file = os.open(f"/proc/{self.holders[host]}/ns/{kind}", os.O_RDONLY)
            if ctypes.CDLL(None, use_errno=True).setns(file, 0):
                raise OSError(ctypes.get_errno(), f"setns to the {kind} namespace")
            os.close(file)

    def ip(self, host, *words):
        """Run a command of ``ip`` on a host."""
        done = subprocess.run([*self.entered(host), "ip", *words], capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")

    def _connect(self):
        second = str(self.holders[1])
        self.ip(0, "link", "add", LINK, "type", "veth", "peer", "name", LINK, "netns", second)
        for host, address in enumerate(ADDRESSES):
            self.ip(host, "address", "add", f"{address}/24", "dev", LINK)
            self.ip(host, "link", "set", LINK, "up")
            self.ip(host, "link", "set", "lo", "up")

    def start(self, host, door, *args, folder, log="log.txt", **environment):
        """Run a command such as ``train.py``, or ``torchrun``, on a host in a folder; returns the process."""
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        variables = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        # gloo would look the name of the machine up, and find an address of another host.
        variables |= {"GLOO_SOCKET_IFNAME": LINK, **environment}
        folder.mkdir(exist_ok=True)
        arguments = self, host, door, [str(arg) for arg in args], folder, folder / log, variables
        process = CONTEXT.Process(target=_start, args=arguments)
        with mock.patch.dict(os.environ, PYTHONPATH=path):
            process.start()
        return process


def _held(stack, command):
    holder = subprocess.Popen([*command, sys.executable, "-c", "print(); input()"], stdin=subprocess.PIPE, stdout=-1, stderr=-1)
    stack.callback(holder.wait)
    stack.callback(holder.kill)
    if not holder.stdout.readline():
        raise OSError(holder.stderr.read().decode().strip())
    return holder


def _start(hosts, host, door, arguments, folder, log, variables):
    hosts.enter(host)
    if door != "torchrun":
        _run(door, arguments, folder, log, variables)
    _run(Path(__file__), arguments, folder, log, variables)


def _torchrun(arguments):
    """Be ``torchrun``, whose workers are forked from it and so need no ten seconds to import everything."""
    from torch.distributed import run
    from torch.distributed.launcher import api

    def launch(config, entrypoint):
        return api.elastic_launch(replace(config, start_method="fork"), _work)

    with mock.patch.object(run, "elastic_launch", launch):
        run.main(arguments)


def _work(*arguments):
    import runpy

    script = next(place for place, word in enumerate(arguments) if word.endswith(".py"))
    sys.argv = list(arguments[script:])
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    _torchrun(sys.argv[1:])

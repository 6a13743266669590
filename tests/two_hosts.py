"""Two hosts on one machine: network namespaces with a link between them, and commands in each."""

import ctypes
import os
import signal
import subprocess
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from unittest import mock

import torch
from processes import CONTEXT, ROOT, _run
from pytorch_lightning import Callback
from stand_ins import Images
from torch.distributed import run

from data.module import ImageDataModule

ADDRESSES = "10.77.0.1", "10.77.0.2"
LINK = "link0"


class TinyStream(ImageDataModule):
    """Images of 8 x 8, of which each process takes its own."""

    native_size = 8

    def load(self):
        return Images(), Images()


class KeepWeights(Callback):
    """Keeps what each process has in the end, in its working directory."""

    def on_train_end(self, trainer, pl_module):
        torch.save(pl_module.state_dict(), f"weights{trainer.global_rank}.pt")


class Hosts:
    """Two hosts with a link between them, which end with the processes that hold them."""

    def __init__(self, stack, holder, with_users):
        self._stack, self.holders, self.with_users = stack, [holder], with_users

    @classmethod
    @contextmanager
    def made(cls):
        """Make them, as root or, where that is allowed, as the root of a namespace of users; OSError if neither is."""
        for users in (["--user", "--map-root-user"], []):
            with ExitStack() as stack:
                try:
                    hosts = cls(stack, _held(stack, ["unshare", *users, "--net"]), bool(users))
                    hosts.holders.append(_held(stack, [*hosts.entered(0, net=False), "unshare", "--net"]))
                    hosts._connect()
                    stack.enter_context(_killed_in_the_end(hosts.holders))
                except OSError:
                    continue
                yield hosts
                return
        raise OSError("network namespaces can be made neither by this user nor in a namespace of users")

    def entered(self, host, net=True):
        """Return the words before a command that run it on a host."""
        options = ["--user", "--preserve-credentials"] * self.with_users + ["--net"] * net
        return ["nsenter", "--target", str(self.holders[host]), *options] if options else []

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
        variables |= {"GLOO_SOCKET_IFNAME": LINK, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", **environment}
        folder.mkdir(exist_ok=True)
        spaces = [f"/proc/{self.holders[host]}/ns/{kind}" for kind in ["user"] * self.with_users + ["net"]]
        arguments = spaces, door, [str(arg) for arg in args], folder, folder / log, variables
        process = CONTEXT.Process(target=_start, args=arguments)
        with mock.patch.dict(os.environ, PYTHONPATH=path):
            process.start()
        self._stack.callback(self.signal, host, signal.SIGKILL)
        return process

    def signal(self, host, number):
        """Send a signal to all processes of a host but the one that holds it."""
        space = os.readlink(f"/proc/{self.holders[host]}/ns/net")
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.readlink(entry / "ns/net") == space and int(entry.name) != self.holders[host]:
                    os.kill(int(entry.name), number)

    def start_torchrun(self, host, number, *args, conf="", **options):
        """Start ``train.py`` by ``torchrun`` on a host, one process with a rendezvous on the first host."""
        first = f"is_host={1 - host}{conf}"  # which torchrun otherwise guesses from the machine's name
        words = ["--nnodes", number, "--nproc-per-node", 1, "--max-restarts", 3, "--rdzv-backend", "c10d"]
        words += ["--rdzv-endpoint", f"{ADDRESSES[0]}:29400", "--rdzv-conf", first, "--local-addr", ADDRESSES[host]]
        return self.start(host, "torchrun", *words, ROOT / "train.py", *args, **options)


def _held(stack, command):
    """Start a process that holds what ``command`` makes until the end; returns its id."""
    pipes = dict.fromkeys(["stdin", "stdout", "stderr"], subprocess.PIPE)
    holder = stack.enter_context(subprocess.Popen([*command, "sh", "-c", "echo; read line"], **pipes))
    stack.callback(holder.kill)
    if not holder.stdout.readline():
        raise OSError(holder.stderr.read().decode().strip())
    return holder.pid


def _killed_in_the_end(holders):
    """Within a context, have all processes of hosts killed when it is left, or this process is gone without that."""
    spaces = [os.readlink(f"/proc/{holder}/ns/net") for holder in holders]
    script = """read line
        for entry in /proc/[0-9]*; do
            space=$(readlink $entry/ns/net) && case "$*" in *"$space"*) kill -s KILL ${entry#/proc/};; esac
        done"""
    # In a session of its own, which neither Ctrl-C nor a kill of the test's group ends.
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(["sh", "-c", script, "sh", *spaces], **pipes, start_new_session=True)


def _start(spaces, door, *rest):
    for space in spaces:  # which a process with several threads cannot enter
        with open(space) as file:
            if ctypes.CDLL(None).setns(file.fileno(), 0):
                raise OSError(f"cannot enter {space}")
    _run(run.__file__ if door == "torchrun" else door, *rest)

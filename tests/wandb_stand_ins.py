"""A W&B server of our own, what W&B wrote to disk, and how to kill its process."""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

API_KEY = "x" * 40


class Handler(BaseHTTPRequestHandler):
    """Answers as much of W&B's protocol as a run needs."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.received.append((self.path, body))
        self._reply(self._graphql(json.loads(body)) if self.path.endswith("/graphql") else {})

    def do_PUT(self):
        self.do_POST()

    def do_GET(self):
        self._reply({})

    def _graphql(self, request):
        query, variables = request["query"], request.get("variables") or {}
        if "upsertBucket" in query:
            project = {"id": "p", "name": "normlab", "entity": {"id": "e", "name": "tester"}}
            bucket = {"id": "r", "name": variables["name"], "displayName": "run", "project": project}
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        if "createRunFiles" in query:
            here = f"http://127.0.0.1:{self.server.server_port}/upload"
            files = [{"name": name, "uploadUrl": f"{here}/{name}"} for name in variables["files"]]
            return {"data": {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}}
        if "viewer" in query:
            viewer = {"id": "u", "entity": "tester", "username": "tester", "flags": "{}", "teams": {"edges": []}}
            return {"data": {"viewer": viewer}}
        return {"data": {"model": None}}

    def _reply(self, answer):
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.received = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def die(self):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass


@contextmanager
def silent_server():
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wandb_process():
    pid = os.getpid()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    commands = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    (core,) = [child for child, command in commands.items() if b"wandb-core" in command]
    return core


def kill_wandb_process():
    core = wandb_process()
    os.kill(core, signal.SIGKILL)
    os.waitpid(core, 0)


@contextmanager
def frozen_wandb_process():
    core = wandb_process()
    os.kill(core, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(core, signal.SIGCONT)


def records(run_dir, kind="history"):
    """What all W&B runs in a run's folder have on disk, oldest first."""
    found = []
    for file in sorted(Path(run_dir).glob("wandb/*run-*/run-*.wandb")):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        found += [record[kind] for record in map(json.loads, lines) if record["type"] == kind]
    return found


def rows(run_dir):
    return [record["item"] for record in records(run_dir)]


def panels(run_dir):
    """The keys of which W&B makes a panel by itself: all that are logged and not hidden."""
    logged = {key.partition(".")[0] for row in rows(run_dir) for key in row if not key.startswith("_")}
    return logged - {metric["name"] for metric in records(run_dir, "metric") if metric["options"].get("hidden")}


def summary(run_dir):
    """What W&B sums up of the only run in a folder."""
    (file,) = Path(run_dir).glob("wandb/*run-*/run-*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(file)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["summary"]

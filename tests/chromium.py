"""A headless Chromium, driven through the pipe of its DevTools protocol with nothing but the standard library."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find() -> str | None:
    """The Chromium of this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class ChromiumError(Exception):
    """What Chromium or a script in its page says went wrong."""


class Chromium:
    """One browser with one page; a context manager.

    Attributes:
        requests: The addresses that the page asked for, but for itself.
        errors: Exceptions, errors and warnings of the page's console.
    """

    def __init__(self, executable: str, timeout: float = 60.0) -> None:
        self.timeout = timeout
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._address = ""
        self._buffer = b""
        self._number = 0
        self._loaded = False
        self._profile = tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True)
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()

        def connect() -> None:
            # The protocol is spoken through the descriptors 3 and 4; copies first, since they may be taken.
            copies = os.dup(theirs_in), os.dup(theirs_out)
            for copy, wanted in zip(copies, (3, 4), strict=True):
                os.dup2(copy, wanted)

        self._process = subprocess.Popen(
            [
                executable,
                "--headless=new",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--hide-scrollbars",
                "--no-first-run",
                f"--user-data-dir={self._profile.name}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=connect,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._session: str | None = None

    def __enter__(self) -> "Chromium":
        pages = [info for info in self.send("Target.getTargets")["targetInfos"] if info["type"] == "page"]
        target = pages[0]["targetId"] if pages else self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Give a command of the protocol and wait for its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive(time.monotonic() + self.timeout)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise ChromiumError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def screen(self, width: int, height: int, dark: bool = False, scale: float = 1, touch: bool = False) -> None:
        """Set the size of the window and the preferred colors."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=touch
        )
        colors = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media="", features=[colors])

    def open(self, page: Path | str) -> float:
        """Open a file or an address, and wait until it is loaded and drawn; return the seconds that took."""
        self._address, self._loaded = page if isinstance(page, str) else page.resolve().as_uri(), False
        self.requests.clear()
        self.errors.clear()
        start = time.monotonic()
        self.send("Page.navigate", url=self._address)
        while not self._loaded:
            self._receive(start + self.timeout)
        self.settle()
        return time.monotonic() - start

    def settle(self) -> None:
        """Wait until what was asked to be drawn is drawn."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))")

    def run(self, script: str) -> Any:
        """Evaluate JavaScript in the page, and wait for it if it is a promise."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise ChromiumError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def wait_for(self, script: str) -> None:
        """Wait until a script in the page is true."""
        end = time.monotonic() + self.timeout
        while not self.run(script):
            if time.monotonic() > end:
                raise ChromiumError(f"never true: {script}")

    def press(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("rawKeyDown", "keyUp"):
            codes = {"Tab": 9, "Enter": 13, " ": 32, "Escape": 27}
            text = {"Enter": "\r", " ": " "}.get(key)
            extra = {"text": text} if text and kind == "rawKeyDown" else {}
            self.send(
                "Input.dispatchKeyEvent",
                type="keyDown" if extra else kind,
                key=key,
                windowsVirtualKeyCode=codes.get(key, 0),
                **extra,
            )
        self.settle()

    def point(self, x: float, y: float, click: bool = False) -> None:
        """Move the pointer, and click if asked to."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.settle()

    def picture(self, path: Path, whole: bool = False) -> Path:
        """Write a PNG of the window, or of the whole page."""
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    def _receive(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._from], [], [], max(0.0, end - time.monotonic()))[0]:
                raise ChromiumError("no answer in time")
            read = os.read(self._from, 1 << 20)
            if not read:
                raise ChromiumError("Chromium ended")
            self._buffer += read
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        handle = HANDLERS.get(message.get("method", ""))
        if handle:
            handle(self, message["params"])
        return message


def _loaded(browser: Chromium, event: dict[str, Any]) -> None:
    browser._loaded = True


def _requested(browser: Chromium, event: dict[str, Any]) -> None:
    address = event["request"]["url"].partition("#")[0]
    if address != browser._address and not address.startswith("data:"):
        browser.requests.append(address)


def _threw(browser: Chromium, event: dict[str, Any]) -> None:
    details = event["exceptionDetails"]
    browser.errors.append(details.get("exception", {}).get("description", details["text"]))


def _logged(browser: Chromium, event: dict[str, Any]) -> None:
    if event["entry"]["level"] in ("error", "warning"):
        browser.errors.append(event["entry"]["text"])


def _called(browser: Chromium, event: dict[str, Any]) -> None:
    if event["type"] in ("error", "warning", "assert"):
        browser.errors.append(" ".join(str(part.get("value", part.get("description"))) for part in event["args"]))


HANDLERS: dict[str, Callable[[Chromium, dict[str, Any]], None]] = {
    "Page.loadEventFired": _loaded,
    "Network.requestWillBeSent": _requested,
    "Runtime.exceptionThrown": _threw,
    "Log.entryAdded": _logged,
    "Runtime.consoleAPICalled": _called,
}

"""What the server of the page answers: all else that Gradio's server knows to do is refused before it sees it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_FILE = "/gradio_api/file="

_ROUTES = {
    "GET": rf"/|/(config|theme\.css|favicon\.ico|manifest\.json)|/(assets|static)/.*|{_FILE}.*"
    r"|/gradio_api/(upload_progress|queue/data)",
    "POST": r"/gradio_api/(upload|queue/join)",
}
"""What the page asks for, by method."""

_LONGEST_MESSAGE = 2**18
"""Bytes of a request that is no upload."""

_OVERHEAD = 2**14
"""Bytes by which an upload may be longer than its file."""

_HEADERS = {
    # The browser itself asks no other host for anything.
    "content-security-policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Gate:
    """Let through what the page asks of Gradio's server, and no more.

    Refused are other routes, such as those that fetch addresses for a client; files that do not lie in the server's
    folder, under whatever name; requests that a page of another site has made; and bodies longer than an upload may be.

    Args:
        app: Gradio's server.
        folder: Where it keeps all files, without symbolic links.
        max_bytes: How large the file of an upload may be.
    """

    def __init__(self, app: ASGIApp, folder: Path, max_bytes: int) -> None:
        self.app = app
        self.folder = folder
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)  # its start and end
            return
        request = Request(scope, receive)
        refusal = self._refusal(request)
        if refusal is None and request.method == "POST" and not request.url.path.endswith("/upload"):
            body, refusal = await self._checked(request)
            receive = _replay(body, receive)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await (refusal or self.app)(scope, receive, with_headers)

    def _refusal(self, request: Request) -> PlainTextResponse | None:
        path, headers = request.scope["path"], request.headers
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return PlainTextResponse("requests of other sites are not answered", 403)
        if not re.fullmatch(_ROUTES.get("GET" if request.method == "HEAD" else request.method, ""), path, re.DOTALL):
            return PlainTextResponse("there is nothing here", 404)
        if path.startswith(_FILE) and not self._holds(path.removeprefix(_FILE)):
            return PlainTextResponse("there is no such file", 403)
        if request.method == "POST":
            upload = path.endswith("/upload")
            length = headers.get("content-length", "")
            if not length.isdecimal() or "transfer-encoding" in headers:
                return PlainTextResponse("a request must say how long it is", 411)
            if int(length) > (self.max_bytes + _OVERHEAD if upload else _LONGEST_MESSAGE):
                limit = f"a photo may have up to {self.max_bytes >> 20} MB" if upload else "the request is too long"
                return PlainTextResponse(limit, 413)
        return None

    async def _checked(self, request: Request) -> tuple[bytes, PlainTextResponse | None]:
        """Return the body of a request as it was understood, and a refusal if it names a file elsewhere."""
        try:
            body = json.loads(await request.body() or "null")
            if all(self._holds(path) for path in _paths(body)):
                return json.dumps(body).encode(), None
        except (ValueError, RecursionError):
            return b"", PlainTextResponse("the request is damaged", 400)
        return b"", PlainTextResponse("there is no such file", 403)

    def _holds(self, path: Any) -> bool:
        """Return whether a path, which a client has named, leads into the server's folder."""
        try:
            return Path(path).is_absolute() and Path(path).resolve().is_relative_to(self.folder)
        except (OSError, TypeError, ValueError, RuntimeError):  # no path, one with a null byte, a loop of links
            return False


def _paths(body: Any) -> Iterator[Any]:
    """Yield what a message calls the path of a file, however deep; a file may have none."""
    if isinstance(body, dict):
        if body.get("path") is not None:
            yield body["path"]
        body = list(body.values())
    if isinstance(body, list):
        for each in body:
            yield from _paths(each)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a channel that gives a body that was read already, and then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed

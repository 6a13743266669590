"""The page that ``stylize.py --serve`` shows: what it paints, and what nobody gets through it."""

import json
import secrets
import signal
import socket
import threading
import time
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch
from chromium import Chromium, find
from PIL import Image
from processes import ended, start

from data.images import load_image
from lightning_modules import AnyStyle, StyleTransfer
from stylizing.command import main
from stylizing.painting import Manner, paint
from training.network_files import write_network

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'normlab[web]'")
pytestmark = pytest.mark.slow  # to start a server

SECRET = "what the machine keeps to itself"
MAX_PIXELS = 300_000
META = {"_type": "gradio.FileData"}


class Server:
    """The page of a tiny network, in a process of its own, spoken to without a browser."""

    def __init__(self, network, process, log):
        self.network = network
        end = time.monotonic() + 120
        while not log.exists() or "open http" not in log.read_text():
            assert process.is_alive(), log.read_text()
            assert time.monotonic() < end
            time.sleep(0.05)
        self.address = log.read_text().split()[1]
        self.port = int(self.address.rpartition(":")[2])
        self.paints = next(each["id"] for each in self.config()["dependencies"] if len(each["inputs"]) > 1)
        self.example = self.result(self.paint(None))
        self.folder = Path(self.example["download"]["path"]).parents[2]

    def ask(self, path, method="GET", body=None, **headers):
        """Ask for a path, which is sent as it is; return status, headers and body."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        with closing(connection):
            return answer.status, answer.headers, answer.read()

    def config(self):
        return json.loads(self.ask("/config")[2])

    def upload(self, content, name="photo.png", **headers):
        form = f'--cut\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        body = form + content + b"\r\n--cut--\r\n"
        kind = {"Content_Type": "multipart/form-data; boundary=cut"}
        status, _, answer = self.ask("/gradio_api/upload", "POST", body, **kind, **headers)
        return status, json.loads(answer) if status == 200 else answer.decode()

    def join(self, photo, manner=(1, 1, "painted"), shares=(100, 0), **more):
        """Ask for a painting; return the session, or the status and text of a refusal."""
        session = secrets.token_hex(6)
        body = {"data": [photo, None, *manner, *shares], "fn_index": self.paints, "session_hash": session} | more
        text = json.dumps(body)
        status, _, answer = self.ask("/gradio_api/queue/join", "POST", text, Content_Type="application/json")
        return session if status == 200 else (status, answer.decode())

    def end_of(self, session):
        """Wait until a session's painting is done or has failed."""
        stream = self.ask(f"/gradio_api/queue/data?session_hash={session}")[2].decode()
        events = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line]
        return next(event for event in events if event["msg"] == "process_completed")

    def paint(self, path, **how):
        return self.end_of(self.join(path and {"path": path, "meta": META}, **how))

    def result(self, event):
        assert event["success"], event
        compared, download, note = event["output"]["data"]
        return {"compared": compared, "download": download["value"], "note": note}

    def file(self, path):
        return self.ask(f"/gradio_api/file={quote(path)}")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    torch.manual_seed(0)
    model = StyleTransfer(styles=["night", "waves"], style_size=64, widths=[4, 8], num_blocks=1, photo_size=64)
    model.setup("fit")
    path = tmp_path_factory.mktemp("network") / "tiny.safetensors"
    write_network(model, path, {})
    return path


@pytest.fixture(scope="module")
def server(network, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "log.txt"
    process = start("stylize.py", network, "--serve", "--port", 0, "--max-pixels", MAX_PIXELS, log=log)
    try:
        server = Server(network, process, log)
        yield server
        assert process.is_alive()
    finally:
        process.terminate()
        status = ended(process)
    assert status == 128 + signal.SIGTERM
    assert not server.folder.exists()


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_text(SECRET)
    return path


def photo(path, width=60, height=40, **options):
    pixels = np.random.default_rng(0).integers(0, 255, (height // 4, width // 4, 3), np.uint8)
    Image.fromarray(pixels).resize((width, height)).save(path, **options)
    return path


def test_the_download_is_what_the_command_line_writes(server, network, tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "a description"
    source = photo(tmp_path / "holiday.png", 300, 200, exif=exif)
    status, (path,) = server.upload(source.read_bytes(), source.name)
    assert status == 200
    result = server.result(server.paint(path, manner=(0.5, 0.75, "luma"), shares=(10, 30)))
    options = ["--stroke-size", "0.5", "--strength", "0.75", "--colors", "luma"]
    out = tmp_path / "out"
    mixture = ["--style", "night=0.25", "--style", "waves=0.75"]
    assert main([str(network), str(source), "-o", str(out), *options, *mixture]) == 0
    assert result["download"]["orig_name"] == "holiday-night-waves.png"
    assert server.file(result["download"]["path"])[2] == (out / "holiday.png").read_bytes()
    assert result["note"] == "holiday-night-waves.png, 300 x 200 pixels"


def test_photo_and_painting_are_there_to_compare(server):
    assert server.example["download"]["orig_name"] == "coffee-night.png"
    for shown in server.example["compared"]:
        status, headers, body = server.file(shown["path"])
        assert (status, headers["content-type"], body[:2]) == (200, "image/jpeg", b"\xff\xd8")


def test_what_a_result_lacks_is_said(server, tmp_path):
    Image.new("RGBA", (40, 40), (255, 0, 0, 100)).save(tmp_path / "clear.png")
    _, (path,) = server.upload((tmp_path / "clear.png").read_bytes(), "clear.jpg")
    assert server.result(server.paint(path))["note"].endswith("Left out: transparency")


def test_one_failure_is_its_own(server, tmp_path):
    good = photo(tmp_path / "good.png").read_bytes()
    (damaged,), (whole,) = server.upload(good[:90], "<b>.png")[1], server.upload(good)[1]
    sessions = [server.join({"path": path, "meta": META}) for path in (damaged, whole, damaged, whole)]
    events = [server.end_of(session) for session in sessions]
    assert [event["success"] for event in events] == [False, True, False, True]
    message = events[0]["output"]["error"]
    assert "b.png: " in message
    assert str(server.folder) not in message
    assert "Traceback" not in message


def test_photos_of_too_many_pixels_are_refused(server, tmp_path):
    (path,) = server.upload(photo(tmp_path / "large.png", 1000, 400).read_bytes(), "large.png")[1]
    event = server.paint(path)
    assert not event["success"]
    assert event["output"]["error"] == f"large.png: 1000x400 pixels are more than max_pixels allows, {MAX_PIXELS}"


def test_programs_are_not_run(server):
    (path,) = server.upload(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "page.png")[
        1
    ]
    assert server.paint(path)["output"]["error"] == "page.png: not an image in a format that Pillow knows"


@pytest.mark.parametrize("how", [
    {"manner": (1e-9, 1, "painted")}, {"manner": (float("nan"), 1, "painted")}, {"manner": ("1", 1, "painted")},
    {"manner": (1, 7, "painted")}, {"manner": (1, 1, "none")},
    {"shares": (0, 0)}, {"shares": (float("nan"), 1)}, {"shares": (-1, 2)}, {"shares": (1,)},
])  # fmt: skip
def test_senseless_numbers_are_refused(server, how):
    answer = server.join(None, **how)
    assert not isinstance(answer, str) or not server.end_of(answer)["success"]


def test_uploads_are_bounded(server):
    large = 51 * 2**20
    status, text = server.upload(b"", Content_Length=str(large))
    assert (status, text) == (413, "a photo may have up to 50 MB")
    kind = {"Content_Type": "multipart/form-data; boundary=cut"}
    assert server.ask("/gradio_api/upload", "POST", iter([b"x"] * 3), **kind)[0] == 411
    assert server.ask("/gradio_api/queue/join", "POST", b" " * 2**19, Content_Type="application/json")[0] == 413


def tricks(server, secret):
    """Paths by which a file outside the server's folder might be had."""
    (server.folder / "link.png").unlink(missing_ok=True)
    (server.folder / "link.png").symlink_to(secret)
    up = "../" * 12
    dots = [
        f"{server.folder}/{up}{secret}",
        f"{up}{secret}",
        f"{server.folder}x{secret}",
        f"{server.folder}/../{secret}",
    ]
    return [str(secret), f"/{secret}", str(server.folder / "link.png"), f"file://{secret}", "/etc/passwd", *dots]


def test_no_file_of_the_machine_is_served(server, secret):
    routes = ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/", "/assets/", "/svelte/", "/theme.css/")
    for path in tricks(server, secret):
        for route in routes:
            for spelled in (quote(path), quote(path, ""), quote(path).replace(".", "%2e"), quote(quote(path, ""), "")):
                status, _, body = server.ask(f"{route}{spelled}")
                assert status in (403, 404), (route, spelled)
                assert SECRET.encode() not in body
                assert b"root:" not in body
    for path in (
        "/gradio_api/file=",
        f"/gradio_api/file={server.folder}",
        "/gradio_api/file=%00",
        "/gradio_api/file=~",
    ):
        assert server.ask(path)[0] in (403, 404)


def test_no_file_of_the_machine_is_painted(server, secret, tmp_path):
    inside = photo(tmp_path / "private.png")
    for path in (*tricks(server, secret), str(inside), "private.png", f"file://{inside}", ""):
        for file in (
            {"path": path, "meta": META},
            {"path": path},
            {"path": path, "url": "data:image/png;base64,", "meta": META},
            {"path": str(server.folder), "more": [{"path": path}]},
        ):
            assert server.join(file) == (403, "there is no such file"), file
        assert server.join(None, event_data={"value": {"image": {"path": path}}})[0] == 403
    assert server.join({"path": ["a"], "meta": META})[0] == 403
    twice = f'{{"data": [{{"path": "{server.folder}", "path": "{inside}"}}], "fn_index": 0, "session_hash": "a"}}'
    escaped = twice.replace("/", "\\u002f")
    for text in (twice, escaped):
        assert server.ask("/gradio_api/queue/join", "POST", text, Content_Type="application/json")[0] == 403


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"data": NaN', "\xff"])
def test_damaged_messages_are_refused(server, text):
    status, _, body = server.ask("/gradio_api/queue/join", "POST", text.encode("latin1"))
    assert (status, body) == (400, b"the request is damaged")


def test_no_address_is_fetched(server):
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as trap:
        threading.Thread(target=lambda: asked.append(trap.accept()), daemon=True).start()
        address = f"http://127.0.0.1:{trap.getsockname()[1]}/photo.png"
        for each in (address, address.replace("127.0.0.1", "localhost"), address.upper(), address.replace("//", "/")):
            assert server.join({"path": each, "meta": META})[0] == 403
            for route in ("/gradio_api/file=", "/gradio_api/proxy=", "/proxy="):
                assert server.ask(f"{route}{each}")[0] in (403, 404)
        (path,) = server.upload(b"no image")[1]
        assert not server.end_of(server.join({"path": path, "url": address, "meta": META}))["success"]
        assert not asked


@pytest.mark.parametrize("name", ["../../escaped.png", "..\\..\\escaped.png", "/tmp/escaped.png",
                                  "%2e%2e%2fescaped.png", "..", "", "a\0b.png", "x" * 5000 + ".png"])  # fmt: skip
def test_uploads_stay_in_the_folder(server, name):
    outside = {path for folder in (server.folder.parent, Path.cwd(), Path("/")) for path in folder.glob("*escaped*")}
    status, answer = server.upload(b"content", name)
    if status == 200:
        (path,) = answer
        assert Path(path).resolve().parents[1] == server.folder
        assert Path(path).read_bytes() == b"content"
    else:
        assert status in (400, 413)
    assert outside == set()
    assert not [path for folder in (server.folder.parent, Path.cwd()) for path in folder.glob("*escaped*")]


@pytest.mark.parametrize(("method", "path"), [
    ("POST", "/gradio_api/run/predict"), ("POST", "/gradio_api/api/paint"), ("POST", "/gradio_api/call/paint"),
    ("GET", "/gradio_api/info"), ("GET", "/gradio_api/openapi.json"), ("GET", "/docs"),
    ("GET", "/gradio_api/deep_link"),
    ("POST", "/gradio_api/component_server"), ("POST", "/gradio_api/process_recording"), ("GET", "/monitoring"),
    ("POST", "/gradio_api/vibe-edit"), ("GET", "/gradio_api/vibe-code"), ("GET", "/gradio_api/runs"), ("GET", "/login"),
    ("GET", "/gradio_api/custom_component/a/client/b/c"), ("POST", "/gradio_api/stream/a"), ("GET", "/pwa_icon"),
    ("GET", "/gradio_api/mcp/sse"), ("PUT", "/gradio_api/upload"), ("DELETE", "/gradio_api/file=/tmp/x"),
    ("TRACE", "/"),
])  # fmt: skip
def test_nothing_else_is_answered(server, method, path):
    status, _, body = server.ask(path, method, b"{}" if method == "POST" else None, Content_Type="application/json")
    assert (status, body) == (404, b"there is nothing here")


def test_other_sites_and_names_are_refused(server):
    assert server.ask("/", Origin=server.address)[0] == 200
    for origin in ("https://elsewhere.example", "null", "http://127.0.0.1:1"):
        assert server.upload(b"content", Origin=origin)[0] == 403
    assert server.ask("/", Host="elsewhere.example")[0] == 400


def test_it_is_bound_to_this_computer(server):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port), 5)


def test_browsers_are_told_to_ask_no_other_host(server):
    policy = server.ask("/")[1]["content-security-policy"]
    assert policy.startswith("default-src 'self' data: blob:")
    assert "http" not in policy


def test_a_port_in_use_is_one_line(server, network, capsys):
    assert main([str(network), "--serve", "--port", str(server.port)]) == 2
    out, err = capsys.readouterr()
    line = f"error: cannot serve at port {server.port} of 127.0.0.1: it is in use (--port 0 takes any that is free)\n"
    assert (out, err) == ("", line)
    assert main([str(network), "--serve", "--host", "no.such.host.invalid"]) == 2
    assert capsys.readouterr().err.startswith("error: cannot serve at port 7860 of no.such.host.invalid: ")


def test_a_picture_can_be_the_style_of_a_network_that_takes_one(server, tmp_path, monkeypatch):
    from stylizing.page import Studio

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    model = AnyStyle(photo_size=32, style_size=64).eval()
    model.setup("fit")
    picture = str(photo(tmp_path / "my=picture.png"))
    _, _, note = Studio(model, tmp_path, None, 10**6).paint(None, picture, 1, 1, False, *[0] * len(model.style_names))
    assert note == "The example, coffee-my=picture.png, 600 x 400 pixels"
    (result,) = tmp_path.glob("made/*/coffee-my=picture.png")
    expected = paint(model, load_image(tmp_path / "coffee.png"), Manner(model.find_style([f"{picture}=1"])))
    assert np.abs(np.asarray(Image.open(result)).astype(int) - np.asarray(expected)).max() <= 1
    assert [image.dtype for image in model.style_images] == [torch.uint8] * len(model.style_names)
    fields = [each["props"]["visible"] for each in server.config()["components"] if each["type"] == "file"]
    assert fields == [True, False]


@pytest.fixture(scope="module")
def browser(server):
    if find() is None:
        pytest.skip("no Chromium is installed")
    with Chromium(find()) as chromium:
        yield chromium


def text(browser, selector):
    return browser.run(f"document.querySelector({selector!r}).textContent.trim()")


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)], ids=["desktop", "phone"])
def test_a_photo_goes_in_and_its_painting_comes_out(width, dark, server, browser, tmp_path):
    source = photo(tmp_path / "my holiday.jpg", 300, 200, quality=95)
    browser.screen(width, 844, dark)
    browser.open(server.address)
    browser.wait_for("document.querySelector('#note')?.textContent.includes('coffee-night.png, 600 x 400 pixels')")
    assert browser.run("document.documentElement.scrollWidth") == width

    root = browser.send("DOM.getDocument")["root"]["nodeId"]
    field = browser.send("DOM.querySelector", nodeId=root, selector="#what input[type=file]")["nodeId"]
    browser.send("DOM.setFileInputFiles", nodeId=field, files=[str(source)])
    browser.wait_for("document.querySelector('#note').textContent.includes('my holiday-night.jpg, 300 x 200 pixels')")
    browser.run("document.querySelectorAll('#styles button')[1].click()")
    browser.wait_for("document.querySelector('#note').textContent.includes('my holiday-waves.jpg')")
    shown = "[...document.querySelectorAll('#made img')]"
    browser.wait_for(f"{shown}.length == 2 && {shown}.every(image => image.complete && image.naturalWidth == 300)")

    browser.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "got"))
    browser.run("document.querySelector('#made button.lg, #made a.lg, #made a button').click()")
    got = tmp_path / "got" / "my holiday-waves.jpg"
    end = time.monotonic() + 30
    while not got.exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert main([str(server.network), str(source), "-o", str(tmp_path / "out"), "--style", "waves"]) == 0
    assert got.read_bytes() == (tmp_path / "out" / source.name).read_bytes()
    assert [address for address in browser.requests if not address.startswith(("blob:", server.address))] == []


def test_errors_are_told_on_the_page(server, browser, tmp_path):
    (tmp_path / "damaged.png").write_bytes(photo(tmp_path / "whole.png").read_bytes()[:80])
    browser.open(server.address)
    browser.wait_for("document.querySelector('#note')?.textContent.includes('coffee')")
    root = browser.send("DOM.getDocument")["root"]["nodeId"]
    field = browser.send("DOM.querySelector", nodeId=root, selector="#what input[type=file]")["nodeId"]
    browser.send("DOM.setFileInputFiles", nodeId=field, files=[str(tmp_path / "damaged.png")])
    browser.wait_for("document.querySelector('.toast-body')?.textContent.includes('damaged.png: ')")
    browser.wait_for("document.querySelector('#note').textContent.trim() == ''")

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from test_stylize import call, fails, run  # noqa: F401


class Camera:
    """Sees three frames, each redder than the last."""

    def __init__(self, number):
        self.there, self.frames, self.released = number == 0, 0, False

    def isOpened(self):  # noqa: N802
        return self.there

    def read(self):
        self.frames += 1
        return self.frames <= 3, np.full((12, 16, 3), (0, 0, 60 * self.frames), np.uint8)

    def release(self):
        self.released = True


@pytest.fixture
def opencv(monkeypatch):
    shown = []
    stand_in = SimpleNamespace(
        VideoCapture=Camera,
        imshow=lambda title, image: shown.append(image),
        waitKey=lambda milliseconds: -1,
        getWindowProperty=lambda title, name: 1.0,
        WND_PROP_VISIBLE=4,
        destroyAllWindows=lambda: None,
        shown=shown,
    )
    monkeypatch.setitem(sys.modules, "cv2", stand_in)
    return stand_in


def test_what_a_camera_sees_is_painted_until_it_ends(run, opencv, capsys):  # noqa: F811
    assert call(run, "--webcam", 0, "--strength", 0) == 0
    out, err = capsys.readouterr()
    assert out.startswith("painted 3 frames, ")
    assert err == "the camera has ended\n"
    # As the camera saw it, and in the order of OpenCV's colors.
    assert [image[0, 0].tolist() for image in opencv.shown] == [[0, 0, 60], [0, 0, 120], [0, 0, 180]]


def test_a_key_and_a_closed_window_end_it(run, opencv, capsys):  # noqa: F811
    opencv.waitKey = lambda milliseconds: ord("q")
    assert call(run, "--webcam", 0) == 0
    opencv.waitKey, opencv.getWindowProperty = lambda milliseconds: -1, lambda title, name: 0.0
    assert call(run, "--webcam", 0) == 0
    assert len(opencv.shown) == 2


def test_without_camera_or_opencv(run, opencv, monkeypatch, capsys):  # noqa: F811
    assert "--webcam 3: there is no such camera" in fails(capsys, run, "--webcam", 3)
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert fails(capsys, run, "--webcam", 0) == "error: --webcam needs OpenCV: pip install opencv-python\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["a.png", "--webcam", 0], "--webcam: the camera gives the frames, so leave out FILE and -o"),
        (["--webcam", 0, "-o", "out"], "--webcam: the camera gives the frames, so leave out FILE and -o"),
        (["--webcam", 0, "--sweep", 3], "--webcam cannot be combined with --sweep"),
        (["--serve", "--webcam", 0], "--serve cannot be combined with --webcam"),
        (["--serve", "--mask", "a.png=b", "--frames"], "--serve cannot be combined with --mask and --frames"),
    ],
)
def test_options_that_would_say_nothing_are_refused(options, message, run, opencv, capsys):  # noqa: F811
    assert fails(capsys, run, *options) == f"error: {message}\n"

"""What a camera sees, painted, in a window."""

import sys
import time
from argparse import Namespace
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from norms.errors import SettingError
from stylizing.painting import Manner, paint
from stylizing.repaint import load
from stylizing.steady import Steady

_TITLE = "normlab, q ends"


def show(options: Namespace) -> None:
    """Paint what a camera sees until q or Esc is pressed, the window is closed or the camera ends.

    Raises:
        SettingError: If OpenCV, its windows or the camera are not there, or there is no such network, style or device.
    """
    cv2 = _opencv()
    model, manners = load(options)
    camera = cv2.VideoCapture(options.webcam)
    try:
        if not camera.isOpened():
            raise SettingError(f"--webcam {options.webcam}: there is no such camera, or another program has it")
        frames, seconds = _paint(cv2, camera, model, manners[0], options)
    finally:
        camera.release()
        cv2.destroyAllWindows()
    print(f"painted {frames} frames, {frames / seconds:.1f} in a second")


def _paint(cv2: ModuleType, camera: Any, model: Any, manner: Manner, options: Namespace) -> tuple[int, float]:
    steady, start, count = Steady(options.steady), time.monotonic(), 0
    while True:
        found, frame = camera.read()
        if not found:
            print("the camera has ended", file=sys.stderr)
            break
        image = Image.fromarray(np.ascontiguousarray(frame[..., ::-1]))
        if options.size is not None:
            image.thumbnail((options.size, options.size))
        cv2.imshow(_TITLE, np.asarray(paint(model, image, manner, steady=steady))[..., ::-1])
        count += 1
        if cv2.waitKey(1) in (ord("q"), 27) or cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) < 1:
            break
    return count, max(time.monotonic() - start, 1e-9)


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise SettingError("--webcam needs OpenCV: pip install opencv-python") from error
    return cv2

"""The frames of videos and cameras, which OpenCV reads. It is an extra: `pip install 'libkd-sdk[video]'`."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from sdk.decoding.sources import refused_files
from sdk.errors import ImageError, UsageError, import_failure
from sdk.files import read_start

if TYPE_CHECKING:
    from cv2 import VideoCapture

SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv"}
)
"""A file that is named with one of these suffixes is a video."""

EARLY = 5e-4
"""The seconds by which the time stamp of a frame may lie before the moment that is asked for."""

_CAMERA = re.compile(r"camera:(\d{1,4})")
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|)")


class Frame(NamedTuple):
    """A frame of a video or a camera, upright.

    Attributes:
        time_s: the seconds from the beginning.
    """

    time_s: float
    image: Image.Image


def seconds_between(text: str) -> float:
    """Return the seconds in `1s`, `0.5` or `500ms`.

    Raises:
        UsageError: `text` is no such time, or not above 0.
    """
    found = _TIME.fullmatch(text.strip())
    seconds = float(found[1]) / (1000 if found[2] == "ms" else 1) if found else 0.0
    if not 1e-3 <= seconds <= 86_400:
        raise UsageError(f"--every {text}: a time from 1ms to a day, such as 1s, 0.5s or 500ms")
    return seconds


def is_video(name: str) -> bool:
    """Tell whether a name that a user gives is that of a video."""
    return Path(name).suffix.lower() in SUFFIXES


def is_camera(name: str) -> bool:
    """Tell whether a name that a user gives is that of a camera, such as `camera:0`."""
    return _CAMERA.fullmatch(name) is not None


def at(name: str, time_s: float) -> str:
    """Return the name of a frame: `clip.mp4 at 1:02:03.0`."""
    tenths = round(10 * time_s)
    hours, minutes, seconds = tenths // 36_000, tenths // 600 % 60, tenths % 600 / 10
    return f"{name} at {f'{hours}:{minutes:02}' if hours else minutes}:{seconds:04.1f}"


@cache
def load_opencv() -> Any:
    """Return OpenCV, which prints nothing, and whose FFmpeg opens nothing but files.

    Raises:
        EngineMissing: it is not installed.
    """
    os.environ |= {
        "OPENCV_LOG_LEVEL": "SILENT",
        "OPENCV_FFMPEG_LOGLEVEL": "-8",  # AV_LOG_QUIET
        "OPENCV_FFMPEG_CAPTURE_OPTIONS": "protocol_whitelist;file",
    }
    try:
        import cv2
    except Exception as fault:
        raise import_failure("videos and cameras", fault, "[video]") from fault
    return cv2


def frames_of(video: str, every_s: float) -> Iterator[Frame]:
    """Give the first frame of a video file, and then one at each multiple of `every_s`, by the frames' time stamps.

    A frame is decoded when it is asked for.

    Raises:
        ImageError: the file is missing, is no readable video, or ends long before it should.
    """
    cv2 = load_opencv()
    with refused_files(video, video):
        read_start(video, 1)  # OpenCV waits for ever for a pipe, and does not say why it can't read a file
    try:
        video.encode()
    except UnicodeEncodeError:  # OpenCV would crash
        raise ImageError(f"{video}: OpenCV can't open a name that is not UTF-8; rename the file") from None
    capture = cv2.VideoCapture(os.path.abspath(video), cv2.CAP_FFMPEG)  # noqa: PTH100  # a Path would follow links
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    try:
        rate, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        number, now, due = 0, 0.0, 0.0
        while capture.grab():
            stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            now = stamp if stamp > 0 or not rate > 0 else number / rate  # some files have no stamps
            number += 1
            if now + EARLY < due:
                continue
            due = ((now + EARLY) // every_s + 1) * every_s
            yield Frame(now, _retrieved(capture, video))
        if not number:
            raise ImageError(f"{video}: not a readable video; check or remove the file")
        length = count / rate if rate > 0 else 0.0
        if now + max(1.0, 0.1 * length) < length < 1e6:
            raise ImageError(
                f"{at(video, now)}: the rest of {length:.1f} s can't be read; check or copy the file again"
            )
    finally:
        capture.release()


def frames_from(camera: str, every_s: float) -> Iterator[Frame]:
    """Give a frame of a camera every `every_s` seconds, until it is switched off.

    Raises:
        ImageError: there is no such camera, or it gives no frame.
    """
    cv2 = load_opencv()
    capture, number, due = _open_camera(cv2, camera), 0, 0.0
    try:
        began = time.monotonic()
        while capture.grab():  # all of them, because a driver keeps old frames
            number += 1
            now = time.monotonic() - began
            if now < due:
                continue
            due = (now // every_s + 1) * every_s
            yield Frame(now, _retrieved(capture, camera))
        if not number:
            raise ImageError(f"{camera}: gives no image; check that it is connected, and that nothing else uses it")
    finally:
        capture.release()


def _open_camera(cv2: Any, camera: str) -> VideoCapture:
    found = _CAMERA.fullmatch(camera)
    capture: VideoCapture = cv2.VideoCapture(int(found[1]) if found else -1)
    return capture


def _retrieved(capture: VideoCapture, name: str) -> Image.Image:
    """Return the frame that was grabbed.

    Raises:
        ImageError: it can't be decoded.
    """
    cv2 = load_opencv()
    is_there, pixels = capture.retrieve()
    if not is_there:
        raise ImageError(f"{name}: a frame can't be decoded; check or copy the file again")
    return Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))

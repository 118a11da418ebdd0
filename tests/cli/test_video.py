"""`predict` of videos and cameras, with real files that OpenCV writes here."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from folders import lay
from libkd_sdk import video
from libkd_sdk.video import at, frames_of, seconds_between
from sdk import Classifier
from sdk.errors import ImageError, UsageError
from shell import libkd

RED, GREEN, BLUE, WHITE = (250, 10, 10), (10, 250, 10), (10, 10, 250), (250, 250, 250)
SHOWN = ("Bag", "Sneaker", "Trouser")


def flat(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((48, 64, 3), colour, np.uint8)


def write(path: Path, frames: Sequence[np.ndarray], rate: float = 10.0, codec: str = "mp4v") -> Path:
    """Write RGB frames of one size as a video."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), rate, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
    writer.release()
    return path


@pytest.fixture
def seconds(tmp_path) -> Path:
    """A video of 3.5 seconds: one of red, one of green, one of blue, and a half of white."""
    colours = [colour for colour in (RED, GREEN, BLUE) for _ in range(10)] + [WHITE] * 5
    return write(tmp_path / "clip.mp4", [flat(colour) for colour in colours])


@pytest.fixture
def shown(clothes, tmp_path) -> Path:
    """A video of three images of clothes, each for a second."""
    images = [np.array(Image.open(clothes / f"test/{label}/0.png").convert("RGB").resize((64, 64))) for label in SHOWN]
    return write(tmp_path / "shown.avi", [image for image in images for _ in range(10)], codec="MJPG")


def boxes(content: bytearray, *names: bytes) -> list[int]:
    """Return where the boxes of an MP4 file of these names begin."""
    return [content.rindex(name) - 4 for name in names]


def colours(path: Path, every: float) -> list[tuple[float, str]]:
    """Return the time and the strongest colour of each frame."""
    found = []
    for time_s, image in frames_of(str(path), every):
        red, green, blue = (int(value) for value in np.array(image).reshape(-1, 3).mean(0))
        name = "white" if min(red, green, blue) > 200 else ("red", "green", "blue")[int(np.argmax((red, green, blue)))]
        found.append((round(time_s, 3), name))
    return found


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1.0), ("0.5", 0.5), ("0.5s", 0.5), ("500ms", 0.5), ("2", 2.0), (" 3s ", 3.0)]
)
def test_a_time_between_frames(text, seconds):
    assert seconds_between(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-1s", "10f", "1m", "nan", "inf", "1e9", "99999999999s", "0.1ms"])
def test_what_is_no_time_between_frames_is_refused(text, tmp_path, shell):
    with pytest.raises(UsageError, match=r"a time from 1ms to a day, such as 1s, 0\.5s or 500ms"):
        seconds_between(text)
    assert "--every" in shell.refused("predict", tmp_path, "clip.mp4", f"--every={text}")


def test_the_name_of_a_frame_tells_its_time():
    assert at("clip.mp4", 0) == "clip.mp4 at 0:00.0"
    assert at("clip.mp4", 3.04) == "clip.mp4 at 0:03.0"
    assert at("clip.mp4", 59.96) == "clip.mp4 at 1:00.0"
    assert at("clip.mp4", 3723.5) == "clip.mp4 at 1:02:03.5"


def test_frames_are_taken_by_time_and_in_their_colours(seconds):
    assert colours(seconds, 1.0) == [(0.0, "red"), (1.0, "green"), (2.0, "blue"), (3.0, "white")]
    assert colours(seconds, 1.5) == [(0.0, "red"), (1.5, "green"), (3.0, "white")]
    assert len(colours(seconds, 0.001)) == 35
    assert [time for time, _ in colours(seconds, 0.25)][:5] == [0.0, 0.3, 0.5, 0.8, 1.0]


@pytest.mark.parametrize(("codec", "suffix"), [("MJPG", ".avi"), ("mp4v", ".mov"), ("MJPG", ".mkv"), ("VP80", ".webm")])
def test_other_formats_are_read_as_well(tmp_path, codec, suffix):
    frames = [flat(colour) for colour in (RED, GREEN, BLUE) for _ in range(10)]
    clip = write(tmp_path / f"clip{suffix}", frames, codec=codec)
    assert [name for _, name in colours(clip, 1.0)] == ["red", "green", "blue"]


def test_a_video_that_was_turned_comes_upright(tmp_path):
    frame = flat(RED)
    frame[:, 32:] = BLUE  # on the right
    clip = write(tmp_path / "clip.mp4", [frame] * 5)
    content = bytearray(clip.read_bytes())
    (place,) = boxes(content, b"tkhd")
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    content[place + 48 : place + 48 + len(quarter)] = quarter  # what a phone writes that is held upright
    clip.write_bytes(content)
    (first, *_) = frames_of(str(clip), 1.0)
    assert first.image.size == (48, 64)
    upper, lower = (np.array(first.image)[rows].reshape(-1, 3).mean(0) for rows in (slice(0, 24), slice(40, 64)))
    assert upper[0] > 200 > upper[2]  # red is at the top
    assert lower[2] > 200 > lower[0]


def test_a_frame_stands_at_its_time_stamp_whatever_the_rate_is(tmp_path):
    clip = write(tmp_path / "clip.mp4", [flat(colour) for colour in (RED, GREEN, BLUE, WHITE)])
    content = bytearray(clip.read_bytes())
    parents = boxes(content, b"moov", b"trak", b"mdia", b"minf", b"stbl")
    table, shown = boxes(content, b"stts", b"elst")
    struct.pack_into(">I", content, shown + 16, 2700)  # the milliseconds that are shown
    size, frames, delta = (struct.unpack_from(">I", content, table + offset)[0] for offset in (0, 16, 20))
    assert frames == 4
    longer = struct.pack(">9I", 4, *(number for times in (1, 20, 5, 1) for number in (1, times * delta)))
    content[table + 12 : table + size] = longer
    for place in (*parents, table):
        struct.pack_into(">I", content, place, struct.unpack_from(">I", content, place)[0] + 3 * 8)
    clip.write_bytes(content)
    assert colours(clip, 0.001) == [(0.0, "red"), (0.1, "green"), (2.1, "blue"), (2.6, "white")]
    assert colours(clip, 1.0) == [(0.0, "red"), (2.1, "blue")]


def test_frames_are_decoded_when_they_are_asked_for(bundles, seconds):
    taken = []

    def frames():
        for frame in frames_of(str(seconds), 0.1):
            taken.append(frame)
            yield frame.image

    with Classifier(bundles["onnx"].path) as classifier:
        coming = classifier.stream(frames())
        next(coming)
        assert 1 <= len(taken) <= 5
        assert len(list(coming)) == len(taken) - 1 == 34


def test_what_is_no_video_is_an_error_of_ours(tmp_path):
    files = {
        "text.mp4": (b"no video", "not a readable video"),
        "empty.mp4": (b"", "not a readable video"),
        "cut.mp4": (write(tmp_path / "a.mp4", [flat(RED)] * 20).read_bytes()[:-500], "not a readable video"),
        "pattern%02d.mp4": (b"", "not a readable video"),
    }
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=re.escape(f"{tmp_path / name}: {message}; check or remove the file")):
            list(frames_of(str(tmp_path / name), 1.0))
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ImageError, match="a pipe, a socket or a device"):
        list(frames_of(str(tmp_path / "pipe.mp4"), 1.0))
    with pytest.raises(ImageError, match="no such file; check the path"):
        list(frames_of(str(tmp_path / "none.mp4"), 1.0))
    odd = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    odd.write_bytes(b"no video")
    with pytest.raises(ImageError, match="can't open a name that is not UTF-8; rename the file"):
        list(frames_of(str(odd), 1.0))


@pytest.mark.parametrize("name", ["-clip.mp4", "100%02d.mp4", "http:clip.mp4", "a b\n.mp4", "布.MP4"])
def test_odd_names_are_names_of_files(seconds, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    seconds.rename(tmp_path / name)
    assert len(list(frames_of(name, 1.0))) == 4


def test_the_rest_of_a_video_that_is_cut_off_is_missed(tmp_path):
    clip = write(tmp_path / "clip.avi", [flat(RED)] * 100, codec="MJPG")
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    frames = frames_of(str(clip), 1.0)
    assert next(frames).time_s == 0
    with pytest.raises(ImageError, match=r"clip.avi at 0:0\d.\d: the rest of 10.0 s can't be read"):
        list(frames)


def test_a_playlist_fetches_nothing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/clip.ts"
        clip = tmp_path / "clip.mp4"
        clip.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{address}\n#EXT-X-ENDLIST\n")
        with pytest.raises(ImageError, match="not a readable video"):
            list(frames_of(str(clip), 1.0))
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.slow
def test_a_video_is_predicted_frame_by_frame(bundle, shown, clothes, shell):
    lines = shell.succeeded("predict", bundle, shown, "--json").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["source"], row["time_s"]) for row in rows] == [(str(shown), 0.0), (str(shown), 1.0), (str(shown), 2.0)]
    with Classifier(bundle) as classifier:
        for row, frame in zip(rows, frames_of(str(shown), 1.0), strict=True):
            assert row["label"] == classifier.predict(frame.image).label
            assert row["score"] == pytest.approx(classifier.predict(frame.image).score, abs=1e-5)
    table = shell.succeeded("predict", bundle, shown, "--every", "500ms")
    for time in ("0:00.0", "0:00.5", "0:01.0", "0:01.5", "0:02.0", "0:02.5"):
        assert f"shown.avi at {time} " in table
    assert table.count("shown.avi at") == 6


@pytest.mark.slow
def test_a_broken_video_does_not_stop_the_others_and_nothing_else_is_printed(bundle, shown, clothes, tmp_path):
    broken, image = tmp_path / "broken.mp4", clothes / "test/Bag/0.png"
    broken.write_bytes(shown.read_bytes()[200:4000])
    process = libkd("predict", bundle, broken, shown, image, "--json")
    rows = [json.loads(line) for line in process.stdout.splitlines()]
    assert [row["source"] for row in rows] == [str(broken), *[str(shown)] * 3, str(image)]
    assert rows[0]["code"] == "image-unreadable"
    assert rows[0].keys() == {"source", "error", "code"}
    assert (process.returncode, process.stderr) == (2, b"")
    process = libkd("predict", bundle, broken, shown, "camera:77", "-q")
    assert process.returncode == 2
    first, second = process.stderr.decode().splitlines()
    assert first == f"libkd-sdk: {broken}: not a readable video; check or remove the file [image-unreadable]"
    assert second.startswith("libkd-sdk: camera:77: gives no image; check that it is connected")


@pytest.mark.slow
def test_a_video_in_a_folder_is_left_out_and_named(bundle, seconds, tmp_path, shell):
    lay(tmp_path, "a.png")
    done = shell.run("predict", bundle, tmp_path, "--json")
    assert done.err == f"left out: {tmp_path}: 1 file is no image (.mp4 1): clip.mp4\n"
    assert [json.loads(line)["source"] for line in done.out.splitlines()] == [str(tmp_path / "a.png")]


class Interrupted:
    """A camera that shows a video, until somebody presses Ctrl-C after some frames."""

    def __init__(self, clip: Path, frames: int) -> None:
        self.capture, self.left = cv2.VideoCapture(str(clip)), frames

    def grab(self) -> bool:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGINT)
        return self.capture.grab()

    def retrieve(self):
        return self.capture.retrieve()

    def release(self) -> None:
        self.capture.release()


@pytest.mark.slow
def test_a_camera_is_read_until_ctrl_c(bundle, seconds, shell, monkeypatch):
    ticks = count()
    clock = SimpleNamespace(monotonic=lambda: next(ticks) / 10)  # ten frames a second
    monkeypatch.setattr(video, "time", clock)
    monkeypatch.setattr(video, "_open_camera", lambda *_: Interrupted(seconds, 25))
    done = shell.run("predict", bundle, "camera:0", "--json")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert (done.code, done.err) == (0, "")
    found = [(row["source"], row["time_s"]) for row in rows]
    assert found[:3] == [("camera:0", 0.1), ("camera:0", 1.0), ("camera:0", 2.0)]
    assert len(found) <= 5  # the process is told a few frames later where it is slow
    monkeypatch.setattr(video, "_open_camera", lambda *_: Interrupted(seconds, 25))
    done = shell.run("predict", bundle, "camera:0", "--every", "1s", "--top-k", 1)
    assert done.code == 0
    assert all(re.fullmatch(r"camera:0 at 0:0\d\.\d  \w+  \d+\.\d%", line) for line in done.out.splitlines())
    assert 3 <= len(done.out.splitlines()) <= 5


@pytest.mark.slow
def test_without_opencv_the_line_says_what_to_install(bundle, clothes):
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "cv2":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from libkd_sdk.main import run
sys.exit(run(sys.argv[1:]))
"""
    for source in ("clip.mp4", "camera:0"):
        command = [sys.executable, "-c", code, "predict", bundle, clothes / "test/Bag/0.png", source]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        wanted = (
            "libkd-sdk: videos and cameras: cv2 is not installed; pip install 'libkd-sdk[video]' [engine-missing]\n"
        )
        assert done.stderr == wanted
    images = [sys.executable, "-c", code, "predict", bundle, clothes / "test/Bag/0.png"]
    assert subprocess.run(images, capture_output=True, check=False).returncode == 0

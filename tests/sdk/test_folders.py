"""The one rule of what is an image: suffix, first bytes, and names that are junk."""

from __future__ import annotations

import os

import pytest
from PIL import Image

from folders import lay, written
from sdk.folders import described, images_in, is_image, is_junk
from sdk.images import FORMATS


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_known_by_its_first_bytes(kind):
    content = written(kind)
    assert is_image("photo", lambda: content[:32])
    assert is_image("photo.jfif", lambda: content[:32]) == (kind != "TIFF")


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_every_netpbm_with_binary_content_is_known(mode):
    assert is_image("x.pnm", lambda: written("PPM", mode)[:32])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"P",
        b"P5 is a format",
        b"Python is not",
        b"BM",
        b"BMW, a maker of cars, and so on",
        b"GIF",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"%PDF-1.7",
        b"<svg xmlns=",
        b"\x89PNX\r\n\x1a\n",
    ],
)
def test_text_and_other_formats_are_no_images(content):
    assert not is_image("notes", lambda: content)


def test_a_known_suffix_needs_no_read():
    def never() -> bytes:
        raise AssertionError

    assert is_image("a/b.JPG", never)
    assert not is_image("a/b.heic", lambda: b"")


@pytest.mark.parametrize(
    "name",
    [
        ".DS_Store",
        "a/._b.png",
        "@eaDir/b.png",
        "a/@EADIR/b.png",
        "__MACOSX/a/b.png",
        "a/.thumbs/b.png",
        "a/thumbs.DB",
        "desktop.ini",
        "#recycle/b.png",
        "lost+found/b.png",
        "$RECYCLE.BIN/b.png",
        "System Volume Information/b.png",
        "a/Icon\r",
    ],
)
def test_what_systems_leave_behind_is_junk(name):
    assert is_junk(name)


@pytest.mark.parametrize("name", ["a/b.png", "./a/b.png", "found/b.png", "__macosx2/b.png", "a.b/c.png", "eaDir/b.png"])
def test_other_names_are_not(name):
    assert not is_junk(name)


def test_a_folder_is_listed_with_its_links(tmp_path):
    lay(tmp_path, "b/1.png", "b/.hidden/2.png", "a.txt", content=b"text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "pool").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "pool/photo", "JPEG")
    (tmp_path / "linked").symlink_to(tmp_path / "pool")
    (tmp_path / "linked/up").symlink_to(tmp_path)
    (tmp_path / "lost.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    images, others = images_in(tmp_path)
    assert images == ["b/1.png", "linked/photo", "lost.png", "pool/photo"]
    assert others == ["a.txt", "empty/", "pipe"]
    assert described(others) == "2 files are no images (.txt 1, no suffix 1): a.txt, pipe"
    many = [f"{number:02}.heic" for number in range(12)]
    assert described(many).endswith(": " + ", ".join(many[:10]) + ", ... and 2 more")
    assert described(["empty/"]) == ""


def test_a_folder_may_be_deeper_than_python_recurses(tmp_path):
    lay(tmp_path, "stays.png")
    place = tmp_path
    for _ in range(1100):
        place /= "d"
        place.mkdir()
    lay(place, "a.png")
    assert images_in(tmp_path).images == ["d/" * 1100 + "a.png", "stays.png"]
    (place / "a.png").unlink()
    os.removedirs(place)  # pytest's own cleaning would recurse

"""Images from anywhere: right, or an `ImageError` in one line, with little memory and nothing on stderr."""

from __future__ import annotations

import gc
import io
import json
import struct
import subprocess
import sys
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from patterns import patterns
from sdk.decoding.containers import strip
from sdk.errors import ImageError
from sdk.images import MAX_PIXELS, MAX_SIDE, Input, Preprocessing, Resize, crop, pixels, read, resize

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
IMAGE = patterns(1, seed=5, size=48)[0][:32]
UPRIGHT = Image.fromarray(IMAGE)
WHOLE = Input(height=32, width=48, resize=Resize(mode="squash", size=(32, 48)), crop="none")
SQUARE = Preprocessing.square(224).input
SQUASHED = Input(height=224, width=224, resize=Resize(mode="squash", size=(224, 224)), crop="none")


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.copy().save(file, format, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """Return a PNG with chunks behind its header."""
    return png[:33] + b"".join(chunks) + png[33:]


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, which shows every warning."""
    command = [sys.executable, "-W", "always", "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def exif_of(tags: int, claimed: int) -> bytes:
    """Return EXIF's block with the orientation 3, and with tags that each claim so many bytes."""
    entries = struct.pack("<HHLL", 0x0112, 3, 1, 3)
    entries += b"".join(struct.pack("<HHLL", 0x0113 + tag, 7, claimed, 8) for tag in range(tags))
    return b"Exif\0\0II*\0" + struct.pack("<LH", 8, tags + 1) + entries + bytes(4)


MEASURE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from sdk.images import Input, Preprocessing, Resize, pixels
from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
def peak(): return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])  # rusage has the parent's, too
input = Preprocessing.square(224).input
squashed = Input(height=224, width=224, resize=Resize(mode="squash", size=(224, 224)), crop="none")
before = peak()
with ThreadPoolExecutor(4) as pool:
    rows = list(pool.map(pixels, sys.argv[1:], [input] * 9)) + list(pool.map(pixels, sys.argv[1:], [squashed] * 9))
assert all((row == rows[0][0, 0]).all() for row in rows)
print(peak() - before)
"""


def megabytes(*paths: Path) -> float:
    """Return by how much a process grows that reads images of a single colour, in four threads, twice."""
    process = run(MEASURE, *paths)
    assert process.returncode == 0, process.stderr
    return int(process.stdout) / 1024


class TestMemory:
    """Reading takes what one image needs, whatever its shape and however many threads read."""

    @pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
    @pytest.mark.parametrize("size", [(1, 10_000), (2, 60_000), (60_000, 1), (65_535, 20)])
    def test_long_images(self, tmp_path, format, size):
        path = tmp_path / "long"
        path.write_bytes(encoded(Image.new("RGB", size, (9, 99, 199)), format))
        assert megabytes(path) < 100

    @pytest.mark.long
    @pytest.mark.slow
    def test_four_large_images_with_transparency_at_once(self, tmp_path):
        path = tmp_path / "large.png"
        path.write_bytes(encoded(Image.new("RGBA", (8944, 8944), (9, 99, 199, 128)), compress_level=1))
        assert (
            megabytes(*[path] * 4) < 700
        )  # four times 320 MB, and as much again for each of three steps, without care

    def test_more_pixels_or_a_longer_side_than_allowed(self):
        for width, height in (
            (MAX_PIXELS, 1),
            (1, MAX_SIDE + 1),
            (8945, 8945),
            (12_000, 12_000),
            (2**31 - 1, 2**31 - 1),
        ):
            header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
            with pytest.raises(ImageError, match=r"pixels, (80,000,000 are|a side may)"):
                read(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))

    def test_too_little_memory_is_one_image_s_error(self, tmp_path):
        (tmp_path / "large.png").write_bytes(encoded(Image.new("L", (8900, 8900))))
        (tmp_path / "small.png").write_bytes(encoded(UPRIGHT))
        code = """
import resource, sys
from sdk import Classifier
from sdk.images import Preprocessing
from sdk.testing import FakeSession
input = Preprocessing.square(32).input
with Classifier.with_session(FakeSession([0.9, 0.1]), labels=["cat", "dog"], input=input) as classifier:
    names = [f"{sys.argv[1]}/{name}.png" for name in ("small", "large", "small")]
    classifier.predict(names[0])
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 2**20,) * 2)
    print([str(outcome) for outcome in classifier.stream(names, errors="return", workers=1)][1])
"""
        process = run(code, tmp_path)
        assert "large.png: needs more memory than there is; scale it down" in process.stdout, process.stderr

    @pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG", "TIFF"])
    def test_tags_that_each_claim_the_whole_file(self, format):
        exif = exif_of(5000 if format == "JPEG" else 65_000, 50_000)
        if format == "TIFF":
            data = exif[6:]
        elif format == "PNG":
            data = with_chunks(encoded(UPRIGHT), chunk(b"eXIf", exif[6:]))
        else:
            data = encoded(UPRIGHT, format, exif=exif)
        tracemalloc.start()
        try:
            pixels(data, WHOLE)
        except ImageError:
            assert format == "TIFF"
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 20e6 + 4 * len(data)

    def test_an_error_that_is_kept_does_not_keep_the_image(self, tmp_path):
        path = tmp_path / "broken.png"
        path.write_bytes(encoded(UPRIGHT)[:60] + bytes(2_000_000))
        tracemalloc.start()
        kept = []
        for _ in range(3):
            with pytest.raises(ImageError) as fault:
                pixels(path, WHOLE)
            kept.append(fault.value)
        del fault
        gc.collect()
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert used < 4e6
        assert kept[0].__cause__ is not None


@pytest.mark.parametrize("compression", ["group4", "tiff_ccitt"])
def test_an_error_that_libtiff_only_prints_is_raised(compression):
    """libtiff goes on after a word that no code has, and Pillow does not hear of it."""
    whole = encoded(UPRIGHT.convert("1"), "TIFF", compression=compression)
    damaged = whole[:30] + bytes(8) + whole[38:]
    with ThreadPoolExecutor(2) as pool:
        for broken, sound in [(pool.submit(read, damaged), pool.submit(read, whole)) for _ in range(50)]:
            assert np.asarray(sound.result()).shape == (32, 48, 3)
            with pytest.raises(ImageError, match=r"Bad code word at line \?"):
                broken.result()


class TestTime:
    """A small file can't keep a reader busy for minutes."""

    def test_a_jpeg_of_a_thousand_scans(self):
        data = encoded(UPRIGHT, "JPEG", progressive=True)
        scan = data[data.rindex(b"\xff\xda") : -2]
        assert pixels(data, WHOLE).shape == (32, 48, 3)
        with pytest.raises(ImageError, match="more than 200 scans"):
            read(data[:-2] + scan * 1000 + data[-2:])
        assert pixels(data + scan * 1000, WHOLE).shape == (32, 48, 3)  # what follows an image, such as a film, is free

    def test_comments(self):
        grey = " ".join(map(str, IMAGE[:, :, 0].ravel().tolist()))
        found = pixels(b"P2\n" + b"#\n" * 500_000 + f"48 32\n# waves\n255\n{grey}\n".encode() + b"#\n" * 500_000, WHOLE)
        np.testing.assert_array_equal(found[:, :, 0], IMAGE[:, :, 0])
        gif = encoded(UPRIGHT.convert("L"), "GIF")
        place = gif.index(b",\0\0\0\0")
        comment = b"!\xfe" + (b"\xff" + b"x" * 255) * 50_000 + b"\0"
        np.testing.assert_array_equal(pixels(gif[:place] + comment + gif[place:], WHOLE), pixels(gif, WHOLE))

    def test_a_tiff_with_more_strips_than_rows(self):
        data = bytearray(encoded(UPRIGHT, "TIFF"))
        (start,) = struct.unpack_from("<L", data, 4)
        (count,) = struct.unpack_from("<H", data, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from("<HHLL", data, place)
            if tag == 273:
                struct.pack_into("<HHLL", data, place, tag, 4, 200_000, len(data))
                data += struct.pack("<L", value) * 200_000
            elif tag == 278:
                struct.pack_into("<HHLL", data, place, tag, 3, 1, 31)
        np.testing.assert_array_equal(pixels(bytes(data), WHOLE)[:31], IMAGE[:31])


class TestSamePixels:
    """However little of an image is looked at, the pixels are those of a resize and a crop of the whole."""

    @settings(max_examples=60, deadline=None)
    @given(
        size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
        mode=st.sampled_from(["RGB", "L", "RGBA", "P", "LA", "CMYK"]),
        shape=st.tuples(st.integers(8, 60), st.integers(8, 60)),
        more=st.integers(0, 9),
        how=st.sampled_from(["squash", "cover"]),
        filter=st.sampled_from(["nearest", "box", "bilinear", "bicubic", "lanczos"]),
    )
    def test_usual_images_to_the_bit(self, size, mode, shape, more, how, filter):
        image = UPRIGHT.resize(size, Image.Resampling.BICUBIC).convert(mode)
        height, width = shape
        input = Input(height=height, width=width, resize=Resize(how, (height + more, width + more), filter))
        whole = resize(read(image), input.resize)
        if whole.width * whole.height <= 16 * (height + more) * (width + more):
            np.testing.assert_array_equal(pixels(image, input), np.asarray(crop(whole, shape)))

    @settings(max_examples=60, deadline=None)
    @given(
        size=st.tuples(st.integers(1, 20), st.integers(300, 1500)),
        turned=st.booleans(),
        orientation=st.integers(1, 8),
        shape=st.sampled_from([(24, 24), (24, 40), (31, 17)]),
    )
    @example(size=(1, 1500), turned=True, orientation=6, shape=(31, 17))
    def test_long_images_within_a_level(self, size, turned, orientation, shape):
        image = UPRIGHT.resize(size[::-1] if turned else size, Image.Resampling.BILINEAR)
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(image, exif=exif)
        input = Input(height=shape[0], width=shape[1], resize=Resize("cover", shape, "bilinear"))
        whole = np.asarray(crop(resize(read(data), input.resize), shape))
        assert np.abs(pixels(data, input).astype(int) - whole).max() <= 1

    @pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "CMYK", "1", "RGBa", "YCbCr"])
    def test_large_images_in_bands(self, mode, monkeypatch):
        image = UPRIGHT.resize((500, 301), Image.Resampling.BICUBIC).convert("RGBA" if mode == "RGBa" else mode)
        image = image.convert(mode)
        input = Preprocessing.square(64, filter="bilinear").input
        whole = pixels(image, input)
        monkeypatch.setattr("sdk.images.LARGE", 100)
        monkeypatch.setattr("sdk.decoding.colours._BAND", 5000)
        assert np.abs(pixels(image, input).astype(int) - whole).max() <= 1
        np.testing.assert_array_equal(np.asarray(read(image)).shape, (301, 500, 3))


class TestSilence:
    """No library writes to stderr or warns, whatever a file holds."""

    @pytest.mark.slow
    def test_two_thousand_damaged_images(self):
        command = [sys.executable, BENCHMARKS / "fuzz_images.py", "--count", "2000", "--seed", "7", "--json"]
        process = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True)
        counts = json.loads(process.stdout)
        assert counts["all"]["tried"] == 2000
        assert len(counts) > 40
        for kind, count in counts.items():
            assert count["tried"] == count["right"] + count["refused"], kind
            assert count["right"] > 0 or count["tried"] < 20, kind
            assert count["noisy"] == 0, kind

    @settings(max_examples=300, deadline=None)
    @given(
        start=st.sampled_from(
            [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8X", b"BM", b"GIF89a", b"P5\n"]
        )
        | st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0"]),
        rest=st.binary(max_size=300),
    )
    def test_any_bytes_after_a_signature(self, start, rest):
        with suppress(ValueError):
            strip(start + rest)
        with suppress(ImageError):
            assert pixels(start + rest, WHOLE).shape == (32, 48, 3)

    def test_what_libraries_complain_about(self, tmp_path):
        exif = exif_of(3000, 50_000)
        orientation = exif_of(0, 0)
        damaged = bytearray(encoded(UPRIGHT, "TIFF", compression="tiff_lzw"))
        damaged[20:400] = b"\xff" * 380
        header = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
        films = encoded(UPRIGHT, "MPO", save_all=True, append_images=[UPRIGHT])
        files = {
            "right": encoded(UPRIGHT, exif=orientation),
            "tags.jpg": encoded(UPRIGHT, "JPEG", exif=exif),
            "tags.png": with_chunks(encoded(UPRIGHT), chunk(b"eXIf", exif[6:])),
            "tags.webp": encoded(UPRIGHT, "WEBP", exif=exif),
            "tags.tif": exif[6:],
            "damaged.tif": bytes(damaged),
            "animation.png": with_chunks(encoded(UPRIGHT), chunk(b"acTL", bytes(8)), chunk(b"acTL", bytes(8))),
            "films.jpg": films.replace(b"MPF\0", b"MPF\0\xff\xff\xff\xff"),
            "large.png": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""),
            "channels.tif": encoded(UPRIGHT, "TIFF").replace(
                b"\x15\x01\x03\0\x01\0\0\0\x03", b"\x15\x01\x03\0\x01\0\0\0\x63"
            ),
        }
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        code = """
import pathlib, sys
from PIL import Image
from sdk.decoding.containers import strip
from sdk.errors import ImageError
from sdk.images import Preprocessing, pixels
input = Preprocessing.square(16).input
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    for source in (path, path.read_bytes(), path.open("rb")):
        try:
            print(path.name, pixels(source, input).shape)
        except ImageError as fault:
            print(fault)
        if hasattr(source, "close"):
            source.close()
pixels(Image.open(sys.argv[1] + "/tags.webp"), input)  # what an app opened itself is silent too
pixels(Image.open(sys.argv[1] + "/tags.png"), input)
"""
        process = run(code, tmp_path)
        assert process.stderr == ""
        assert process.returncode == 0
        for name in ("right", "tags.jpg", "tags.png", "tags.webp", "animation.png", "films.jpg"):
            assert f"{name} (16, 16, 3)" in process.stdout

"""Images come from many places and are of many kinds: they are read right, or refused with a way out."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from patterns import patterns
from sdk.errors import ImageError
from sdk.images import Input, Preprocessing, Resize, pixels, read, source_name

IMAGE = patterns(1, seed=5, size=48)[0][:32]
UPRIGHT = Image.fromarray(IMAGE)
GREY = IMAGE[:, :, 0]
WHOLE = Input(height=32, width=48, resize=Resize(mode="squash", size=(32, 48)), crop="none")


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.copy().save(file, format, **options)
    return file.getvalue()


def png(depth: int, colours: int, rows: bytes, *chunks: bytes) -> bytes:
    """Return a PNG of one filtered row, 4 pixels wide, of a depth and colours that Pillow does not write."""
    parts = [b"IHDR" + struct.pack(">IIBBBBB", 4, 1, depth, colours, 0, 0, 0), *chunks]
    parts += [b"IDAT" + zlib.compress(b"\0" + rows), b"IEND"]
    coded = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(coded)


def tiff(bits: int, rows: bytes, *, photometric: int = 1, format: int = 1, size: tuple[int, int] = (4, 1)) -> bytes:
    """Return a grey TIFF of any number of bits."""
    tags = {256: size[0], 257: size[1], 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: size[1]}
    tags |= {279: len(rows), 339: format}
    directory = b"".join(struct.pack("<HHLL", tag, 3, 1, value) for tag, value in tags.items())
    padding = bytes(len(rows) % 2)
    start = 8 + len(rows) + len(padding)
    return struct.pack("<2sHL", b"II", 42, start) + rows + padding + struct.pack("<H", len(tags)) + directory + bytes(4)


class File:
    """A binary file whose `read` does what a test wants."""

    def __init__(self, *parts: object) -> None:
        self._parts = list(parts)

    def read(self, count: int) -> object:
        part = self._parts.pop(0) if self._parts else b""
        if isinstance(part, Exception):
            raise part
        return part


class Endless:
    name = "endless"

    def read(self, count: int) -> bytes:
        return bytes(count)


class TestPaths:
    def test_only_regular_files_are_read(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "zero").symlink_to("/dev/zero")
        (tmp_path / "terminal").symlink_to("/dev/ptmx")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(tmp_path / "socket"))
            for name in ("pipe", "zero", "terminal", "socket"):
                with pytest.raises(ImageError, match=rf"{name}: a pipe, a socket or a device, not a file; read it"):
                    pixels(tmp_path / name, WHOLE)

    def test_what_can_t_be_opened(self, tmp_path):
        (tmp_path / "folder").mkdir()
        (tmp_path / "loop").symlink_to("loop")
        (tmp_path / "broken").symlink_to("nowhere")
        cases = {
            "folder": "a folder, not an image; name the images in it",
            "loop": "can't be read (Too many levels of symbolic links); check the path and its permissions",
            "broken": "no such file; check the path",
            "x" * 300: "can't be read (File name too long); check the path and its permissions",
        }
        for name, message in cases.items():
            with pytest.raises(ImageError) as fault:
                pixels(tmp_path / name, WHOLE)
            assert str(fault.value) == f"{tmp_path / name}: {message}"
        with pytest.raises(ImageError, match="no such file"):
            pixels("", WHOLE)

    def test_a_file_that_may_not_be_read(self, tmp_path):
        (tmp_path / "secret.png").write_bytes(encoded(UPRIGHT))
        (tmp_path / "secret.png").chmod(0)
        code = "import os, sys; from sdk.images import read\nif os.getuid() == 0: os.setuid(65534)\nread(sys.argv[1])"
        command = [sys.executable, "-c", code, tmp_path / "secret.png"]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "secret.png: can't be read (Permission denied); check the path and its permissions" in process.stderr

    @pytest.mark.parametrize("name", ["a\0b", "a\nb.png", "a\udcffb.png", "data:image/png;base64," + "A" * 100_000])
    def test_odd_names_make_one_short_line(self, name):
        with pytest.raises(ImageError) as fault:
            pixels(name, WHOLE)
        assert len(str(fault.value)) < 700
        assert str(fault.value).isprintable()
        str(fault.value).encode()
        assert source_name(name) == name

    def test_a_file_that_grows_is_read_up_to_the_limit(self, tmp_path, monkeypatch):
        monkeypatch.setattr("sdk.decoding.sources.MAX_BYTES", 1000)
        with pytest.raises(ImageError, match="larger than"):
            read("/proc/self/maps")  # a regular file that says it has 0 bytes


class TestFiles:
    @pytest.mark.parametrize(
        ("file", "message"),
        [
            (Endless(), "^endless: larger than 256 MB; scale it down$"),
            (File("text"), r"its read\(\) returned str\); open it in binary mode"),
            (File(None), r"its read\(\) returned NoneType\); open it in binary mode"),
            (File(b"\x89PNG", 7), r"its read\(\) returned int\)"),
            (File(OSError(5, "Input/output error")), r"Input/output error"),
            (File(MemoryError()), "needs more memory than there is"),
            (File(KeyError("x\ny")), r"not a readable image \('x\\ny'\)"),
            (File(), "empty; check or remove the file"),
            (io.TextIOWrapper(io.BytesIO(b"\xff\xd8\xff\xe0")), "not a readable image"),
        ],
        ids=["endless", "text", "nothing", "a number", "disk", "memory", "any error", "empty", "undecodable text"],
    )
    def test_what_is_no_binary_file(self, file, message):
        with pytest.raises(ImageError, match=message):
            pixels(file, WHOLE)

    def test_a_closed_file(self):
        file = io.BytesIO(encoded(UPRIGHT))
        file.close()
        with pytest.raises(ImageError, match="closed file"):
            pixels(file, WHOLE)

    def test_a_file_may_give_its_bytes_piecewise(self):
        data = encoded(UPRIGHT)
        ours, theirs = socket.socketpair()
        with ours, theirs, theirs.makefile("rb", buffering=0) as file:
            sender = threading.Thread(
                target=lambda: [ours.sendall(data[at : at + 100]) for at in range(0, len(data), 100)]
            )
            sender.start()
            sender.join()
            ours.close()
            np.testing.assert_array_equal(pixels(file, WHOLE), IMAGE)
        np.testing.assert_array_equal(pixels(File(bytearray(data[:9]), memoryview(data)[9:]), WHOLE), IMAGE)

    def test_bytes_of_other_types(self):
        data = encoded(UPRIGHT)
        data += bytes(-len(data) % 4)
        view = memoryview(data).cast("I")
        assert source_name(view) == f"<{len(data)} bytes>"
        np.testing.assert_array_equal(pixels(view, WHOLE), IMAGE)
        view.release()
        with pytest.raises(ImageError, match="released"):
            pixels(view, WHOLE)
        assert source_name(view) == "<memoryview>"


class TestArrays:
    def test_views(self):
        large = np.zeros((64, 96, 3), np.uint8)
        large[::2, ::2] = IMAGE
        for array in (large[::2, ::2], IMAGE[::-1, ::-1][::-1, ::-1], np.asfortranarray(IMAGE), IMAGE.view(np.ndarray)):
            for input in (WHOLE, Preprocessing.square(24).input):
                array.flags.writeable = False
                np.testing.assert_array_equal(pixels(array, input), pixels(IMAGE.copy(), input))

    @pytest.mark.parametrize(
        "array",
        [
            np.empty((0, 2**40, 3), np.uint8),
            np.empty((2**40, 0), np.uint8),
            np.empty((), np.uint8),
            np.empty((5,), np.uint8),
            np.empty((4, 4, 3), object),
            np.zeros((4, 4), [("a", np.uint8), ("b", np.uint8)]),
            np.zeros((4, 4, 3), np.int8),
            np.zeros((4, 4), np.uint16),
            np.broadcast_to(np.uint8(7), (2**20, 2**20, 3)),
            np.broadcast_to(np.uint8(7), (70_000, 2)),
        ],
        ids=lambda array: f"{array.dtype}{array.shape}",
    )
    def test_what_is_no_image(self, array):
        with pytest.raises(ImageError, match=r"^<array "):
            pixels(array, WHOLE)

    def test_an_array_that_fits_is_not_copied(self):
        assert pixels(IMAGE, WHOLE) is IMAGE or np.shares_memory(pixels(IMAGE, WHOLE), IMAGE)


class TestModes:
    @pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
    def test_an_image_without_pixels(self, size):
        with pytest.raises(ImageError, match="pixels, so there is nothing to see"):
            pixels(Image.new("RGB", size), WHOLE)

    @pytest.mark.parametrize(
        "mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LA", "PA", "RGBX", "RGBa", "La"]
    )
    def test_every_mode_shows_the_same_image(self, mode):
        grey = mode in ("L", "LA", "La", "PA")
        steps = {"La": ("LA", "La"), "PA": ("LA", "PA"), "RGBa": ("RGBA", "RGBa")}.get(mode, (mode,))
        image = UPRIGHT
        for step in steps:
            image = image.convert(step)
        expected = np.asarray(UPRIGHT.convert("L" if grey else mode if mode in ("1", "P") else "RGB").convert("RGB"))
        assert np.abs(pixels(image, WHOLE).astype(int) - expected).max() <= (8 if mode == "HSV" else 3)

    def test_lab(self):
        white = Image.new("LAB", (4, 4), (255, 128, 128))
        assert (pixels(white, Preprocessing.square(4).input) >= 253).all()

    def test_integers_without_a_known_range_are_refused(self):
        for image in (Image.new("L", (4, 4), 200).convert("I"), Image.fromarray(np.full((4, 4), 200, np.int32))):
            for source in (image, encoded(image, "TIFF")):
                with pytest.raises(ImageError, match="signed pixels have no agreed range"):
                    pixels(source, WHOLE)
        for bits in (8, 16, 32):
            data = tiff(bits, bytes(4 * bits // 8), format=2)
            with pytest.raises(ImageError, match="signed pixels have no agreed range: save it with 8 bits"):
                pixels(data, WHOLE)

    def test_a_caller_s_image_of_sixteen_bits(self):
        deep = Image.fromarray((GREY.astype(np.uint16) << 8) + 99)
        for mode in ("I;16", "I;16B", "I;16L"):
            image = (
                deep if mode == "I;16" else Image.frombytes(mode, deep.size, deep.tobytes("raw", mode.replace("L", "")))
            )
            np.testing.assert_array_equal(pixels(image, WHOLE)[:, :, 0], GREY)

    @pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
    def test_files_of_sixteen_bits(self, format):
        data = encoded(Image.fromarray((GREY.astype(np.uint16) << 8) + 99), format)
        for source in (data, Image.open(io.BytesIO(data))):
            np.testing.assert_array_equal(pixels(source, WHOLE)[:, :, 0], GREY)

    def test_other_depths(self):
        input = Input(height=1, width=4, resize=Resize("squash", (1, 4)))
        grey = [[0, 0, 0], [85, 85, 85], [170, 170, 170], [255, 255, 255]]
        twelve = bytes([0x00, 0x05, 0x50, 0xAA, 0x0F, 0xFF])
        ten = b"P5 4 1 1023\n" + struct.pack(">4H", 0, 341, 682, 1023)
        plain = b"P2 4 1 1023\n0 341 # one third\n682 1023\n"
        for data in (tiff(12, twelve), ten, plain, png(2, 0, b"\x1b"), png(4, 0, b"\x05\xaf")):
            np.testing.assert_array_equal(pixels(data, input)[0], grey)
        colours = png(16, 2, bytes(range(24)))
        np.testing.assert_array_equal(pixels(colours, input)[0], np.arange(0, 24, 2).reshape(4, 3))
        with pytest.raises(ImageError, match="more than 8 bits where 0 is white"):
            pixels(tiff(16, bytes(8), photometric=0), input)

    def test_a_transparent_colour_of_any_depth_lies_on_white(self):
        input = Input(height=1, width=4, resize=Resize("squash", (1, 4)))

        def clear(*values: int) -> bytes:
            return b"tRNS" + struct.pack(f">{len(values)}H", *values)

        for data in (
            png(1, 0, b"\x90", clear(0)),
            png(2, 0, b"\x1b", clear(1)),
            png(4, 0, b"\x05\xaf", clear(5)),
            png(8, 0, b"\x00\x55\xaa\xff", clear(0x55)),
            png(16, 0, b"\x00\x00\x55\x55\xaa\xaa\xff\xff", clear(0x5555)),
        ):
            expected = [255, 255, 255, 255] if data[24] == 1 else [0, 255, 170, 255]
            assert pixels(data, input)[0, :, 0].tolist() == expected
        deep = png(16, 2, b"\x12\x34" * 6 + b"\x56\x78" * 6, clear(0x1234, 0x1234, 0x1234))
        assert pixels(deep, input)[0, :, 0].tolist() == [255, 255, 0x56, 0x56]

    def test_the_orientation_is_found_wherever_it_stands(self):
        exif = Image.Exif()
        exif[0x0112] = 3
        xmp = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="3"/>'
        profile = b"\nexif\n      38\n" + exif.tobytes().hex().encode() + b"\n"

        def chunk(content: bytes) -> bytes:
            return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))

        whole = encoded(UPRIGHT)
        upside_down = IMAGE[::-1, ::-1]
        for data in (
            encoded(UPRIGHT, exif=exif),
            encoded(UPRIGHT, "TIFF", exif=exif),
            encoded(UPRIGHT, "WEBP", exif=exif, lossless=True),
            encoded(UPRIGHT, "WEBP", xmp=xmp, lossless=True),
            encoded(UPRIGHT, "TIFF", tiffinfo={700: xmp}),
            whole[:33] + chunk(b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + xmp) + whole[33:],
            whole[:33] + chunk(b"iTXtXML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)) + whole[33:],
            whole[:33] + chunk(b"tEXtRaw profile type exif\0" + profile) + whole[33:],
            whole[:33] + chunk(b"zTXtRaw profile type exif\0\0" + zlib.compress(profile)) + whole[33:],
            whole[:-12] + chunk(b"eXIf" + exif.tobytes()[6:]) + whole[-12:],
        ):
            np.testing.assert_array_equal(pixels(data, WHOLE), upside_down)
            np.testing.assert_array_equal(pixels(Image.open(io.BytesIO(data)), WHOLE), upside_down)
        jpeg = encoded(UPRIGHT, "JPEG", xmp=xmp)
        np.testing.assert_array_equal(pixels(jpeg, WHOLE), pixels(encoded(UPRIGHT, "JPEG"), WHOLE)[::-1, ::-1])

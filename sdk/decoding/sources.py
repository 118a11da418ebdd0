"""Decoded images from what an app has: a path, bytes, a binary file, a PIL image or an array."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, _imaging

from ..errors import ImageError
from ..files import read_regular
from .colours import eight_bits, is_plain
from .containers import Content, orientation_of, strip
from .libtiff import errors_raised, listen
from .memory import MemoryBudget

Pixels: TypeAlias = NDArray[np.uint8]
"""uint8, RGB, [height, width, 3] or with a leading batch dimension."""

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | Pixels

MAX_BYTES = 256 * 2**20
MAX_PIXELS = 80_000_000  # 320 MB once decoded
MAX_SIDE = 65_535  # the longest that a JPEG or a GIF can have
DECODE_BYTES = 512 * 2**20
"""The memory that all threads of a process together decode with. An image that needs more is decoded alone."""

_budget = MemoryBudget(DECODE_BYTES)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that makes an image upright, by EXIF's orientation."""
_SIDEWAYS = {_TURNS[orientation] for orientation in (5, 6, 7, 8)}
_MIRRORED = {_TURNS[orientation] for orientation in (2, 3, 6, 7)}
_UPSIDE_DOWN = {_TURNS[orientation] for orientation in (3, 4, 7, 8)}

_AT_ONCE = 2**20
_BLOCK = 16 * 2**20  # unless the app or its user chose another size

_Length = TypeVar("_Length", int, float)

Box: TypeAlias = tuple[float, float, float, float]
"""Left, upper, right and lower edge."""


class Stored(NamedTuple):
    """An image as its file holds it: not yet RGB, and with EXIF's orientation not yet applied.

    Attributes:
        extent: (width, height) of the part of `image`, from its upper left corner, that shows something. In a JPEG
            that was decoded at a fraction of its size, the last row and column may be filled only in part.
        turn: the operation that makes the image upright.
    """

    image: Image.Image
    extent: tuple[float, float]
    turn: Image.Transpose | None

    @property
    def upright_extent(self) -> tuple[float, float]:
        return self.oriented(self.extent)

    def oriented(self, size: tuple[_Length, _Length]) -> tuple[_Length, _Length]:
        """Return a stored (width, height) as the upright image has it, or the other way round."""
        return (size[1], size[0]) if self.turn in _SIDEWAYS else size

    def turned(self, image: Image.Image) -> Image.Image:
        """Return an image that came from this one upright."""
        return image if self.turn is None else image.transpose(self.turn)

    def place(self, upright: Box) -> Box:
        """Return where a box of the upright image lies in the stored one."""
        left, upper, right, lower = upright
        width, height = self.upright_extent
        if self.turn in _MIRRORED:
            left, right = width - right, width - left
        if self.turn in _UPSIDE_DOWN:
            upper, lower = height - lower, height - upper
        return (upper, left, lower, right) if self.turn in _SIDEWAYS else (left, upper, right, lower)


def source_name(source: ImageSource) -> str:
    """Return the name of an image for errors and predictions: its path, or a description of the object."""
    try:
        return _name(source)
    except Exception:  # an object of the caller's may raise anything
        return f"<{type(source).__name__}>"


def _name(source: ImageSource) -> str:
    if isinstance(source, np.ndarray):
        return f"<array {'x'.join(map(str, source.shape))}>"
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return f"<{memoryview(source).nbytes} bytes>"
    if isinstance(source, Image.Image):
        return os.fsdecode(getattr(source, "filename", "")) or f"<image {source.width}x{source.height}>"
    return str(getattr(source, "name", "<file>"))


@contextmanager
def decoded(source: ImageSource, at_least: int | None = None, *, beside: int = 0) -> Iterator[Stored]:
    """Decode a source, and hold its share of the memory budget inside the block.

    Args:
        at_least: decode a JPEG at 1/2, 1/4 or 1/8 of its size while both sides keep at least that many pixels.
        beside: the bytes that the block needs for each pixel of the decoded image.

    Raises:
        ImageError: the image is missing, damaged, too large, or of an unsupported kind, or the block failed.
    """
    name = _one_line(source_name(source), 500)
    try:
        with _decoded(source, name, at_least, beside) as stored:
            yield stored
        return
    except Exception as fault:  # Pillow's readers raise almost any exception for damaged files
        _forget_frames(fault)
        error = fault if isinstance(fault, ImageError) else _explained(fault, name)
    raise error


def _forget_frames(fault: BaseException | None) -> None:
    """Drop the tracebacks of an error and its causes, which would keep the image alive as long as the error."""
    while fault is not None:
        fault.__traceback__ = None
        fault = fault.__cause__ or fault.__context__


def _explained(fault: Exception, name: str) -> ImageError:
    if isinstance(fault, MemoryError):
        error = ImageError(f"{name}: needs more memory than there is; scale it down, or decode fewer at once")
    else:
        reason = _one_line(str(fault), 200) or type(fault).__name__
        error = ImageError(f"{name}: not a readable image ({reason}); check or remove the file")
    error.__cause__ = fault
    return error


def _one_line(text: str, most: int) -> str:
    """Return the start of the first line of a text, with escapes for what can't be printed."""
    line = (text.strip().splitlines() or [""])[0] if most < 500 else text
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line[: most + 1])
    return shown if len(shown) <= most else f"{shown[:most]}..."


@contextmanager
def _decoded(source: ImageSource, name: str, at_least: int | None, beside: int) -> Iterator[Stored]:
    _set_up_pillow()
    if isinstance(source, np.ndarray):
        array = _checked(source, name)
        height, width = array.shape[:2]
        _check_size(width, height, name)
        with _budget.held(width * height * (8 + beside)):
            image = Image.fromarray(np.ascontiguousarray(array))
            yield Stored(image, image.size, None)
    elif isinstance(source, Image.Image):
        _check_size(*source.size, name)
        with _budget.held(source.width * source.height * (_pixel_bytes(source) + beside)):
            source.load()
            yield Stored(_shallow(source, 16, name), source.size, _turn(_orientation(source)))
    else:
        content = strip(_content(source, name))
        image = _opened(content)
        _check_size(*image.size, name)
        work = image.width * image.height * content.work
        drafted = image.draft(None, (at_least, at_least)) if at_least else None
        with _budget.held(work + image.width * image.height * (_pixel_bytes(image) + beside)):
            with errors_raised():
                image.load()
            extent = drafted[1][2:] if drafted else image.size
            yield Stored(_shallow(image, content.bits, name), extent, _turn(content.orientation))


def _checked(array: NDArray[np.generic], name: str) -> NDArray[np.generic]:
    """Return an image array as [height, width] or [height, width, 3 or 4]."""
    if array.dtype != np.uint8:
        raise ImageError(f"{name}: {array.dtype} pixels; give uint8 with values 0 to 255")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise ImageError(f"{name}: an array has the shape [height, width] or [height, width, 1, 3 or 4]")
    return array


def _check_size(width: int, height: int, name: str) -> None:
    if not (width and height):
        raise ImageError(f"{name}: {width}x{height} pixels, so there is nothing to see; check where it comes from")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: {width}x{height} pixels, {MAX_PIXELS:,} are allowed; scale it down")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{name}: {width}x{height} pixels, a side may have {MAX_SIDE:,}; cut it into parts")


def _content(source: ImageSource, name: str) -> bytes:
    """Return the bytes of a file in memory."""
    if isinstance(source, str | os.PathLike):
        data = _file(source, name)
    elif isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source) if memoryview(source).nbytes <= MAX_BYTES else None
    elif hasattr(source, "read"):
        data = _stream(cast(IO[bytes], source), name)
    else:
        raise ImageError(
            f"{type(source).__name__} is not an image; give a path, bytes, a binary file, a PIL image or a uint8 array"
        )
    if data is None:
        raise ImageError(f"{name}: larger than {MAX_BYTES // 2**20} MB; scale it down")
    if not data:
        raise ImageError(f"{name}: empty; check or remove the file")
    return data


def _file(path: str | os.PathLike[str], name: str) -> bytes | None:
    with refused_files(path, name):
        return read_regular(path, MAX_BYTES)


@contextmanager
def refused_files(path: str | os.PathLike[str], name: str) -> Iterator[None]:
    """Turn an `OSError` of reading the file `path` inside the block into an `ImageError` that calls it `name`."""
    try:
        yield
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file; check the path") from None
    except OSError as fault:
        if fault.errno == errno.EINVAL and Path(os.fsdecode(path)).is_dir():
            raise ImageError(f"{name}: a folder, not an image; name the images in it") from fault
        if fault.errno in (errno.EINVAL, errno.ENXIO):
            raise ImageError(f"{name}: a pipe, a socket or a device, not a file; read it and give its bytes") from fault
        raise ImageError(f"{name}: can't be read ({fault.strerror}); check the path and its permissions") from fault


def _stream(file: IO[bytes], name: str) -> bytes | None:
    """Return what is left in a binary file, or None if it has more than `MAX_BYTES`. A pipe may give it piecewise."""
    content = bytearray()
    while len(content) <= MAX_BYTES:
        part = file.read(min(_AT_ONCE, MAX_BYTES + 1 - len(content)))
        if not isinstance(part, bytes | bytearray | memoryview):
            kind = type(part).__name__
            raise ImageError(f"{name}: not a readable image (its read() returned {kind}); open it in binary mode")
        if not part:
            return bytes(content)
        content += part
    return None


def _opened(content: Content) -> ImageFile.ImageFile:
    """Return a lazy image, which Pillow's reader for its format made.

    `Image.open` does the same, but it warns if an image has many pixels, and imports all formats for some.
    """
    from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, PpmImagePlugin

    file = io.BytesIO(content.data)
    match content.format:
        case "JPEG":
            return JpegImagePlugin.JpegImageFile(file)
        case "PNG":
            return PngImagePlugin.PngImageFile(file)
        case "GIF":
            return GifImagePlugin.GifImageFile(file)
        case "BMP":
            return BmpImagePlugin.BmpImageFile(file)
        case "PPM":
            return PpmImagePlugin.PpmImageFile(file)
        case "WEBP":
            from PIL import WebPImagePlugin

            return WebPImagePlugin.WebPImageFile(file)
        case _:
            from PIL import TiffImagePlugin

            return TiffImagePlugin.TiffImageFile(file)


@cache
def _set_up_pillow() -> None:
    """Make the settings for the whole process, once.

    Pillow keeps an image in blocks. The allocator of Linux returns those of more than 32 MB to the system when they are
    freed, and keeps smaller ones for each thread, which would be the whole budget for each.
    """
    if _imaging.get_block_size() == _BLOCK:
        _imaging.set_block_size(4 * _BLOCK)
    listen()


def _pixel_bytes(image: Image.Image) -> int:
    """Return the bytes that a pixel takes while an image is kept as it is, and as RGB if it has to be converted."""
    kept = 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4
    return kept if is_plain(image) else kept + 4


def _shallow(image: Image.Image, bits: int, name: str) -> Image.Image:
    """Return an image with 8 bits in each channel; deeper ones keep their upper bits if their range is known."""
    if image.mode == "F":
        raise ImageError(f"{name}: floating-point pixels have no agreed range; save the image with 8 bits")
    if image.mode == "I" and image.format != "PPM":  # Pillow brings those to 16 bits
        raise ImageError(f"{name}: 32-bit and signed pixels have no agreed range; save the image with 8 or 16 bits")
    return eight_bits(image, bits) if image.mode.startswith("I") else image


def _orientation(image: Image.Image) -> object:
    """Return EXIF's orientation of an image that the caller opened, which may have changed it in memory."""
    with suppress(Exception):  # damaged EXIF says nothing
        if getattr(image, "_exif", None) is None and isinstance(exif := image.info.get("exif"), bytes):
            return orientation_of(exif, xmp if isinstance(xmp := image.info.get("xmp"), bytes) else b"")
        return image.getexif().get(ExifTags.Base.Orientation)
    return None


def _turn(orientation: object) -> Image.Transpose | None:
    return _TURNS.get(orientation) if isinstance(orientation, int) else None

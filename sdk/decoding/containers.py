"""Image files without their metadata: Pillow and libtiff see only what carries pixels.

Pillow's readers keep every tag and text of a file in memory, and warn about each that is odd. A tag takes 12 bytes of
a file and may claim the whole file as its value. So metadata is left out here, and the orientation is read on the way.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from . import tiff

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_SCANS = 200
"""A JPEG may have so many passes over its pixels. Encoders write about 10; each takes time, and costs 100 bytes."""

_SIGNATURES = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<WEBP>RIFF....WEBPVP8[ LX])|(?P<BMP>BM)|(?P<GIF>GIF8[79]a)"
    rb"|(?P<TIFF>(?:II|MM)(?:\x2a\x00|\x00\x2a)|II\x2b\x00|MM\x00\x2b)|(?P<PPM>P[1-6f]\s)",
    re.DOTALL,
)


class Content(NamedTuple):
    """A file without its metadata.

    Attributes:
        format: one of `FORMATS`.
        data: what Pillow reads.
        orientation: EXIF's, between 1 (upright) and 8. Any other number says nothing.
        bits: the bits of a grey pixel that has more than 8.
        work: the bytes that the decoder needs for each pixel beside those of the image.
    """

    format: str
    data: bytes
    orientation: int = 1
    bits: int = 16
    work: int = 0


def format_of(head: bytes) -> str | None:
    """Return which of `FORMATS` a file is in, by its first 16 bytes; None if in none of them."""
    found = _SIGNATURES.match(head)
    return found.lastgroup if found else None


def strip(data: bytes) -> Content:
    """Return a file without its metadata.

    Raises:
        ValueError: it is in none of `FORMATS`, or damaged.
    """
    format = format_of(data[:16])
    if format is None:
        raise ValueError("its content is in no supported image format")
    try:
        return _STRIP[format](data)
    except (IndexError, struct.error) as fault:
        raise ValueError(f"a {format} whose header is cut off") from fault


def orientation_of(exif: bytes, xmp: bytes) -> int:
    """Return the orientation in EXIF's block, else in XMP's; 1 if both are silent, empty, or damaged."""
    try:
        found = tiff.orientation(exif.removeprefix(b"Exif\0\0"))
    except (ValueError, struct.error):
        found = None
    if found is not None:
        return found
    said = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)
    return int(said[1]) if said else 1


# ------------------------------------------------------------------------------------------------------------- JPEG

_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}
"""Markers of applications and comments. JFIF's and Adobe's are not among them: they say how colours are stored."""


def _jpeg(data: bytes) -> Content:
    kept, exif, xmp = [memoryview(data)[:2]], list[bytes](), b""
    frame, channels = 0, 0
    for marker, start, end in _segments(data, 2):
        if marker == _SCAN:
            kept.append(memoryview(data)[start:])
            break
        if marker not in _METADATA:
            kept.append(memoryview(data)[start:end])
        if marker in _FRAMES:
            frame, channels = marker, data[start + 9]
        elif marker == 0xE1 and data.startswith(b"Exif\0\0", start + 4):
            exif.append(data[start + 10 : end])
        elif marker == 0xE1 and data.startswith(b"http://ns.adobe.com/xap/1.0/\0", start + 4):
            xmp = data[start + 33 : end]
    else:
        raise ValueError("a JPEG without pixels")
    in_scans = frame in _PROGRESSIVE or data[start + 4] < channels
    # The marker may also stand in what follows the image, such as a film, so it is counted with care if there are many.
    if in_scans and data.count(b"\xff\xda", start) > MAX_SCANS and _scans(data, start) > MAX_SCANS:
        raise ValueError(f"a JPEG of more than {MAX_SCANS} scans")
    return Content("JPEG", b"".join(kept), orientation_of(b"".join(exif), xmp), work=2 * channels if in_scans else 0)


def _scans(data: bytes, position: int) -> int:
    return sum(marker == _SCAN for marker, _, _ in _segments(data, position))


def _segments(data: bytes, position: int) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each segment of a JPEG, and where it starts and ends; coded pixels are passed over."""
    while (found := _MARKER.search(data, position)) and (marker := found[0][1]) != _END:
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
        if marker == _START or not found.end() + 2 <= position <= len(data):
            raise ValueError("a JPEG whose header is damaged")
        yield marker, found.start(), position


# -------------------------------------------------------------------------------------------------------------- PNG

_MAX_TEXT = 2**20
_GREY, _COLOUR = 0, 2
_ANIMATION, _TEXTS = (b"acTL", b"fcTL", b"fdAT"), (b"tEXt", b"zTXt", b"iTXt")


def _png(data: bytes) -> Content:
    """Return a PNG without its animation, texts and colour profile. Pillow judges the chunks that are not known."""
    kept, blocks, depth, colours, position = [data[:8]], dict[str, bytes](), 8, -1, 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">L4s", data, position)
        chunk = data[position : position + 12 + length]
        if kind == b"eXIf" or kind in _TEXTS:
            blocks |= _blocks(kind, _body(chunk))
        elif kind == b"tRNS" and (depth, colours) in ((1, _GREY), (2, _GREY), (4, _GREY), (16, _COLOUR)):
            kept.append(_transparent_colour(_body(chunk), depth, colours))
        elif kind != b"iCCP" and kind not in _ANIMATION:
            kept.append(chunk)
        if kind == b"IHDR":
            depth, colours = chunk[16], chunk[17]
        position += 12 + length
    return Content("PNG", b"".join(kept), orientation_of(blocks.get("exif", b""), blocks.get("xmp", b"")))


def _body(chunk: bytes) -> bytes:
    if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
        raise ValueError("a PNG with a wrong checksum")
    return chunk[8:-4]


def _transparent_colour(body: bytes, depth: int, colours: int) -> bytes:
    """Return the chunk that names the transparent colour, in the range to which Pillow brings the pixels."""
    values = struct.unpack_from(">H" if colours == _GREY else ">HHH", body)
    values = tuple(value >> 8 if depth == 16 else value * 255 // (2**depth - 1) for value in values)
    body = struct.pack(f">{len(values)}H", *values)
    return struct.pack(">L", len(body)) + b"tRNS" + body + struct.pack(">L", zlib.crc32(b"tRNS" + body))


def _blocks(kind: bytes, body: bytes) -> dict[str, bytes]:
    """Return the block of EXIF or XMP in a chunk. ImageMagick writes EXIF's as a text; XMP's is always one."""
    if kind == b"eXIf":
        return {"exif": body}
    key, _, value = body.partition(b"\0")
    if key == b"XML:com.adobe.xmp" and kind == b"iTXt":
        *_, text = value[2:].split(b"\0", 2)
        return {"xmp": _inflated(text) if value[:1] == b"\1" else text}
    if key == b"Raw profile type exif" and kind != b"iTXt":
        lines = (_inflated(value[1:]) if kind == b"zTXt" else value).split(b"\n")
        with suppress(ValueError):
            return {"exif": bytes.fromhex(b"".join(lines[3:]).decode("ascii", "replace"))}
    return {}


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _MAX_TEXT)
    except zlib.error:
        return b""


# --------------------------------------------------------------------------------------------------------- the others


def _webp(data: bytes) -> Content:
    blocks, position = {}, 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sL", data, position)
        if kind in (b"EXIF", b"XMP "):
            blocks[kind] = data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
    return Content("WEBP", data, orientation_of(blocks.get(b"EXIF", b""), blocks.get(b"XMP ", b"")), work=12)


_GIF_BLOCK = re.compile(rb"[!,;]")


def _gif(data: bytes) -> Content:
    """Return a GIF whose screen holds its first frame, and of the extensions before it only the transparent colour."""
    flags, position, control = data[10], 13, b""
    position += 3 << (flags & 7) + 1 if flags & 128 else 0
    palette = data[10:position]
    while (found := _GIF_BLOCK.search(data, position)) and found[0] == b"!":
        position = found.end() + 1
        block = data[position + 1 : position + 1 + data[position]]
        if data[found.end()] == 0xF9 and block and block[0] & 1:
            control = b"!\xf9\x04\x01\0\0" + bytes([block[3]]) + b"\0"
        while length := data[position]:
            position += 1 + length
        position += 1
    if not found or found[0] == b";":
        raise ValueError("a GIF without an image")
    width, height = struct.unpack_from("<HH", data, 6)
    left, top, across, down = struct.unpack_from("<4H", data, found.end())
    screen = struct.pack("<HH", max(width, left + across), max(height, top + down))
    return Content("GIF", b"".join([data[:6], screen, palette, control, data[found.start() :]]))


def _bmp(data: bytes) -> Content:
    return Content("BMP", data, work=2)


def _tiff(data: bytes) -> Content:
    found = tiff.reduced(data)
    orientation = orientation_of(b"", found.xmp) if found.orientation is None else found.orientation
    return Content("TIFF", found.data, orientation, found.bits, found.work)


def _ppm(data: bytes) -> Content:
    """Return a PPM. From one in plain text the comments are removed: for each of them, Pillow copies a megabyte."""
    is_plain = data[1:2] in b"123"
    return Content("PPM", re.sub(rb"#[^\r\n]*[\r\n]?", b"", data) if is_plain else data, work=8)


_STRIP: dict[str, Callable[[bytes], Content]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "BMP": _bmp,
    "GIF": _gif,
    "TIFF": _tiff,
    "PPM": _ppm,
}

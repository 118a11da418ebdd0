"""TIFF files with a directory that holds no surprises. A block of EXIF is a TIFF as well.

A directory lists tags. A tag has a number, the type and count of its values, and the values or where they are.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_MAX_VALUES = 2**18
"""Each value becomes an object of Python. 80 million pixels are 20,000 tiles of the usual 64x64."""
_MAX_SAMPLES = 6

_ORDERS = {b"II*\0": "<", b"II\0*": "<", b"MM\0*": ">", b"MM*\0": ">", b"II+\0": "<", b"MM\0+": ">"}
_LETTERS = {1: "B", 2: "s", 3: "H", 4: "L", 5: "LL", 6: "b", 7: "s", 8: "h", 9: "l", 10: "ll", 11: "f", 12: "d"}
_LETTERS |= {13: "L", 16: "Q", 17: "q", 18: "Q"}
"""The letters of `struct` for the types of values; the last three are those of BigTIFF."""

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _ROWS, _PLANES = 256, 257, 258, 259, 262, 277, 278, 284
_STRIPS, _STRIP_SIZES, _TILE_WIDTH, _TILE_LENGTH, _TILES, _TILE_SIZES, _FORMAT = 273, 279, 322, 323, 324, 325, 339
_ORIENTATION, _XMP = 274, 700
_SINGLE = {_WIDTH, _LENGTH, _COMPRESSION, _PHOTOMETRIC, 266, _SAMPLES, _ROWS, _PLANES, 292, 293, 317}
_SINGLE |= {_TILE_WIDTH, _TILE_LENGTH, 512, 513, 514, 515, 531}
_PIXELS = {*_SINGLE, _BITS, _STRIPS, _STRIP_SIZES, 320, _TILES, _TILE_SIZES, 338, _FORMAT, 347, *range(517, 522)}
_PIXELS |= {529, 530, 532}
"""The tags that say how pixels are stored, and those of them that have one value. TIFF 6.0 explains their numbers."""
_UNCOMPRESSED, _OLD_JPEG = 1, 6


class _Tag(NamedTuple):
    """A tag: the number of its type, its values as they are stored, and the field that holds them or says where."""

    kind: int
    raw: bytes
    field: bytes

    @property
    def size(self) -> int:
        """The bytes of one value."""
        return struct.calcsize("=" + _LETTERS[self.kind])

    @property
    def values(self) -> int:
        return len(self.raw) // self.size

    def first(self, values: int) -> _Tag:
        raw = self.raw[: values * self.size]
        return _Tag(self.kind, raw, raw.ljust(len(self.field), b"\0") if len(raw) <= len(self.field) else self.field)

    def last(self) -> _Tag:
        raw = self.raw[-self.size :]
        return _Tag(self.kind, raw, raw.ljust(len(self.field), b"\0"))


class _Form(NamedTuple):
    """The letters of `struct` for the parts of a directory: the count of tags, a tag, and a place in the file.

    `pointer` is where the file says where its directory is.
    """

    amount: str
    tag: str
    place: str
    pointer: int


_CLASSIC, _BIG = _Form("H", "HHL4s", "L", 4), _Form("Q", "HHQ8s", "Q", 8)


class Directory(NamedTuple):
    """The first directory of a file: its byte order as `struct` writes it, its form, and some of its tags."""

    order: str
    form: _Form
    tags: dict[int, _Tag]

    def numbers(self, tag: int, default: int) -> tuple[int, ...]:
        """Return the integers of a tag.

        Raises:
            ValueError: its values are of another type.
        """
        if tag not in self.tags:
            return (default,)
        found = self.tags[tag]
        letter = _LETTERS[found.kind]
        if letter not in "BHLhlQq":
            raise ValueError(f"a TIFF whose tag {tag} is not a number")
        return struct.unpack(self.order + letter * found.values, found.raw)

    def number(self, tag: int, default: int) -> int:
        """Return the first integer of a tag."""
        return self.numbers(tag, default)[0]


class Reduced(NamedTuple):
    """A TIFF whose only directory has the tags that say how its pixels are stored.

    Attributes:
        orientation: the number that its tag said; None without the tag.
        xmp: the block of XMP; empty without one.
        bits: the bits of the deepest sample.
        work: the bytes for each pixel that libtiff needs, if it is needed and all of the image is one strip.
    """

    data: bytes
    orientation: int | None
    xmp: bytes
    bits: int
    work: int


def orientation(exif: bytes) -> int | None:
    """Return the orientation in a block of EXIF, None if it says nothing.

    Raises:
        ValueError, struct.error: the block is damaged.
    """
    directory = _read(exif, {_ORIENTATION}, whole=False)
    return directory.number(_ORIENTATION, 0) if directory.tags else None


def reduced(data: bytes) -> Reduced:
    """Return a TIFF without all that Pillow and libtiff need not see.

    Raises:
        ValueError, struct.error: it is damaged, or its pixels have no known range.
    """
    directory = _read(data, {*_PIXELS, _ORIENTATION, _XMP}, whole=True)
    tags = directory.tags
    turned = directory.number(_ORIENTATION, 1) if _ORIENTATION in tags else None
    xmp = tags[_XMP].raw if _XMP in tags else b""
    tags = {number: tag.first(1) if number in _SINGLE else tag for number, tag in tags.items() if number in _PIXELS}
    directory = directory._replace(tags=tags)
    bits = max(directory.numbers(_BITS, 1))
    if 2 in directory.numbers(_FORMAT, 1):
        raise ValueError("signed pixels have no agreed range: save it with 8 bits")
    if bits > 8 and directory.number(_PHOTOMETRIC, 0) == 0:
        raise ValueError("more than 8 bits where 0 is white: save it with 8 bits")
    if directory.number(_SAMPLES, 1) > _MAX_SAMPLES:
        raise ValueError(f"a TIFF of more than {_MAX_SAMPLES} channels")
    compression = directory.number(_COMPRESSION, _UNCOMPRESSED)
    if compression != _OLD_JPEG:  # whose parts have tags of their own
        _check_parts(directory, len(data))
    work = 0 if compression == _UNCOMPRESSED else 8 if bits > 8 else 4
    return Reduced(_written(directory, data), turned, xmp, bits, work)


def _check_parts(directory: Directory, length: int) -> None:
    """Refuse a file that lacks some of its strips or tiles, and leave out those that it has too many.

    Pillow leaves lacking ones black, and decodes all that are there, even if thousands claim the same pixels.
    """
    number, tags = directory.number, directory.tags
    height, width = number(_LENGTH, 0), number(_WIDTH, 0)
    rows, columns, place, size = number(_ROWS, height), width, _STRIPS, _STRIP_SIZES
    if _STRIPS not in tags:
        rows, columns, place, size = number(_TILE_LENGTH, 0), number(_TILE_WIDTH, 0), _TILES, _TILE_SIZES
    if min(height, width, rows, columns) < 1:
        raise ValueError("a TIFF without pixels")
    bits, samples, planes = directory.numbers(_BITS, 1), number(_SAMPLES, 1), 1
    if number(_PLANES, 1) == 2:
        samples, planes = 1, samples
    down, across = -(-height // rows), -(-width // columns)
    needed = down * across * planes
    raw = number(_COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED
    for tag in {place, size} & set(tags):
        if tags[tag].values < needed and not (raw and tag == size):  # the sizes of raw parts are known without
            raise ValueError(f"a TIFF with {tags[tag].values} of {needed} parts")
        # Where each strip claims to be the whole image, Pillow chooses the last one.
        tags[tag] = tags[tag].last() if needed == 1 and raw else tags[tag].first(needed)
    row_size = -(-columns * (sum(bits) if len(bits) > 1 and planes == 1 else bits[0] * samples) // 8)
    full = min(rows, height) * row_size
    last = (height - rows * (down - 1)) * row_size
    sizes = directory.numbers(size, 0)
    for index, start in enumerate(directory.numbers(place, length)):
        if raw:
            end = start + (last if index // across % down == down - 1 else full)
        else:
            end = start + (sizes[index] if index < len(sizes) else 0)
        if end > length:
            raise ValueError("a TIFF that is cut off")


def _read(data: bytes, wanted: set[int], *, whole: bool) -> Directory:
    """Read the wanted tags of the first directory. Unless it has to be whole, its end may be cut off.

    Raises:
        ValueError, struct.error: this is no TIFF, or the values of a wanted tag are too many or lie outside of it.
    """
    order = _ORDERS.get(data[:4])
    if order is None:
        raise ValueError("not a TIFF")
    form = _BIG if 43 in data[2:4] else _CLASSIC
    (start,) = struct.unpack_from(order + form.place, data, form.pointer)
    first = start + struct.calcsize("=" + form.amount)
    (count,) = struct.unpack(order + form.amount, data[start:first])
    entry = struct.calcsize("=" + form.tag)
    entries = data[first : first + min(count, 0xFFFF) * entry]
    if whole and first + count * entry > len(data):
        raise ValueError("a TIFF that is cut off")
    tags: dict[int, _Tag] = {}
    for tag, kind, number, field in struct.iter_unpack(order + form.tag, entries[: len(entries) // entry * entry]):
        if tag not in wanted or tag in tags or kind not in _LETTERS or not number:
            continue
        length = number * struct.calcsize("=" + _LETTERS[kind])
        raw = field[:length]
        if length > len(field):
            (place,) = struct.unpack(order + form.place, field)
            raw = data[place : place + length]
        if len(raw) < length or (number > _MAX_VALUES and _LETTERS[kind] not in "Bs"):
            raise ValueError(f"a TIFF whose tag {tag} has too many values")
        tags[tag] = _Tag(kind, raw, field)
    return Directory(order, form, tags)


def _written(directory: Directory, data: bytes) -> bytes:
    """Return the file `data` with this directory behind it, as its only one."""
    order, form, tags = directory
    end = len(data) + len(data) % 2
    pointer = struct.pack(order + form.place, end)
    entries = (
        struct.pack(order + form.tag, number, tag.kind, tag.values, tag.field) for number, tag in sorted(tags.items())
    )
    amount, following = struct.pack(order + form.amount, len(tags)), struct.pack(order + form.place, 0)
    body = memoryview(data)[form.pointer + len(pointer) :]
    return b"".join([data[: form.pointer], pointer, body, bytes(len(data) % 2), amount, *entries, following])

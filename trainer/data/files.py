"""ImageFile files, wherever they lie, to pixels in memory, by the device's own reader: our only door to `sdk`."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from sdk.images import MAX_BYTES, SUFFIXES, ImageError, Input, Preprocessing, Resize, pixels, read

from ..errors import DataError
from ..progress import Progress

__all__ = [
    "ImageFile",
    "Input",
    "Preprocessing",
    "Resize",
    "check_memory",
    "decode",
    "digest",
    "find",
    "native_size",
    "pixels_of",
    "survey",
]

MAX_BAD_SHARE = 0.01
MAX_MEMORY = 16 * 2**30
_LOOK_AHEAD = 256


@dataclass(frozen=True)
class ImageFile:
    """A picture file: its name relative to the data (with /), and how to get its bytes."""

    name: str
    load: Callable[[], bytes]


def find(source: Path) -> list[ImageFile]:
    """The picture files in a folder, a zip or a tar, by name. Nothing is unpacked to disk.

    Raises:
        DataError: there is no such thing, it is no archive, or it holds no picture.
    """
    if source.is_dir():
        found = _in_folder(source)
    elif not source.is_file():
        raise DataError(f"{source}: no such folder or archive; check the path")
    else:
        found = _in_archive(source)
    pictures = sorted((picture for picture in found if _is_picture(picture.name)), key=lambda picture: picture.name)
    if not pictures:
        raise DataError(f"{source}: no pictures in it; expected CLASS/NAME.jpg, or train/CLASS/NAME.jpg and test/...")
    return pictures


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(part.startswith((".", "__MACOSX")) for part in path.parts)


def _in_folder(folder: Path) -> Iterator[ImageFile]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield ImageFile(path.relative_to(folder).as_posix(), path.read_bytes)


def _in_archive(path: Path) -> list[ImageFile]:
    try:
        if zipfile.is_zipfile(path):
            return _in_zip(path)
        if tarfile.is_tarfile(path):
            return _in_tar(path)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as fault:
        raise DataError(f"{path}: a damaged archive ({fault}); fetch or make it again") from fault
    raise DataError(f"{path}: neither a folder nor a whole zip or tar; give one of these")


class _OwnPlace(io.RawIOBase):
    """A file that is read at a place kept here: the system keeps one for all processes that are forked from this."""

    def __init__(self, path: Path) -> None:
        self._descriptor, self._place = os.open(path, os.O_RDONLY), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        size = os.fstat(self._descriptor).st_size
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: size}[whence]
        return self._place

    def readinto(self, buffer: memoryview) -> int:
        count = os.preadv(self._descriptor, [buffer], self._place)
        self._place += count
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def _in_zip(path: Path) -> list[ImageFile]:
    archive = zipfile.ZipFile(io.BufferedReader(_OwnPlace(path)))
    members = (member for member in archive.infolist() if not member.is_dir())
    return [ImageFile(member.filename, partial(_read_member, archive, member)) for member in members]


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.file_size > MAX_BYTES:
        raise ImageError(f"{member.filename}: larger than {MAX_BYTES // 2**20} MB")
    try:
        return archive.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as fault:
        raise ImageError(f"{member.filename}: {fault}; make the archive again") from fault


def _in_tar(path: Path) -> list[ImageFile]:
    pictures = []
    with tarfile.open(path) as archive:
        is_packed = not isinstance(archive.fileobj, io.BufferedReader)
        for member in archive:
            if member.isfile() and _is_picture(member.name) and member.size <= MAX_BYTES:
                if is_packed or member.issparse():  # it can't be read out of order: now
                    load = partial(bytes, archive.extractfile(member).read())
                else:
                    load = partial(_read_part, path, member.offset_data, member.size)
                pictures.append(ImageFile(PurePosixPath(member.name).as_posix(), load))
    return pictures


def _read_part(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def native_size(pictures: list[ImageFile], sample: int = 64) -> int:
    """The median of the shorter sides of an even sample of the pictures, in pixels."""
    sides = []
    for picture in pictures[:: max(1, len(pictures) // sample)]:
        try:
            sides.append(min(read(picture.load()).size))
        except (ImageError, OSError):
            continue
    if not sides:
        raise DataError("none of the pictures looked at can be read; check the files")
    return int(np.median(sides))


def pixels_of(picture: ImageFile, input: Input) -> NDArray[np.uint8]:
    """A picture as uint8 [height, width, 3].

    Raises:
        DataError: it can't be read.
    """
    try:
        file = io.BytesIO(picture.load())
        file.name = picture.name  # what the reader calls it in its errors
        return pixels(file, input)
    except ImageError as fault:
        raise DataError(str(fault)) from fault
    except OSError as fault:
        raise DataError(f"{picture.name}: {fault.strerror or fault}; check or remove the file") from fault


def digest(pixels: NDArray[np.uint8]) -> bytes:
    """Names the pixels of one picture."""
    return hashlib.sha256(np.ascontiguousarray(pixels)).digest()


def check_memory(count: int, input: Input) -> None:
    """Refuse `count` pictures whose pixels would not fit in memory.

    Raises:
        DataError: they would take more than 16 GiB.
    """
    needed = count * input.height * input.width * 3
    if needed > MAX_MEMORY:
        raise DataError(
            f"{count:,} pictures of {input.width}x{input.height} take {needed / 2**30:.0f} GiB of memory, "
            f"more than the {MAX_MEMORY // 2**30} allowed; set a smaller data.size"
        )


def decode(pictures: list[ImageFile], input: Input, progress: Progress) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """All pictures as uint8 [N, height, width, 3], and what is wrong with those that can't be read, by index.

    An unreadable picture's row stays black and is for the caller to drop.

    Raises:
        DataError: more than 1 % can't be read.
    """
    rows = np.zeros((len(pictures), input.height, input.width, 3), np.uint8)
    return rows, _read_all(pictures, input, progress, rows.__setitem__)


def survey(pictures: list[ImageFile], input: Input, progress: Progress) -> tuple[list[bytes], dict[int, str]]:
    """The digest of each picture's pixels, and what is wrong with those that can't be read, by index; keeps no pixels.

    An unreadable picture's digest stays empty and is for the caller to drop.

    Raises:
        DataError: more than 1 % can't be read.
    """
    digests = [b""] * len(pictures)

    def keep(index: int, pixels: NDArray[np.uint8]) -> None:
        digests[index] = digest(pixels)

    return digests, _read_all(pictures, input, progress, keep)


def _read_all(
    pictures: list[ImageFile], input: Input, progress: Progress, keep: Callable[[int, NDArray[np.uint8]], None]
) -> dict[int, str]:
    """Give `keep` the index and pixels of every picture, from threads; what is wrong with the unreadable ones."""
    bad: dict[int, str] = {}

    def read_one(index: int) -> None:
        try:
            keep(index, pixels_of(pictures[index], input))
        except DataError as fault:
            bad[index] = str(fault)

    progress.begin("reading pictures", len(pictures))
    indices = iter(range(len(pictures)))
    with ThreadPoolExecutor() as pool:
        while block := list(islice(indices, _LOOK_AHEAD)):
            for _ in pool.map(read_one, block):
                pass
            progress.step(len(block))
    progress.end()
    if len(bad) > MAX_BAD_SHARE * len(pictures):
        first = ", ".join(pictures[index].name for index in sorted(bad)[:3])
        raise DataError(
            f"{len(bad)} of {len(pictures)} pictures can't be read ({first}{', ...' if len(bad) > 3 else ''}), "
            "more than 1 %; mend or remove them"
        )
    return bad

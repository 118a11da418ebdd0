"""Image files in folders and archives, and their pixels, which `sdk.images` reads in the same way as on the device."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from sdk.errors import ImageError
from sdk.images import MAX_BYTES, SUFFIXES, Input, Preprocessing, Resize, pixels, read

from ..errors import DataError
from ..progress import Progress

if TYPE_CHECKING:
    from typing_extensions import Buffer  # of collections.abc, from Python 3.12 on

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
    """An image file.

    Attributes:
        name: its path relative to the data, with `/`.
        load: a function that returns its bytes.
    """

    name: str
    load: Callable[[], bytes]


def find(source: Path) -> list[ImageFile]:
    """Return the image files in a folder, a zip or a tar, sorted by name. Nothing is unpacked to disk.

    Raises:
        DataError: `source` does not exist, is not an archive, or holds no image.
    """
    found: Iterable[ImageFile]
    if source.is_dir():
        found = _in_folder(source)
    elif not source.is_file():
        raise DataError(f"{source}: no such folder or archive; check the path")
    else:
        found = _in_archive(source)
    files = sorted((file for file in found if _is_image(file.name)), key=lambda file: file.name)
    if not files:
        raise DataError(f"{source}: no images in it; expected CLASS/NAME.jpg, or train/CLASS/NAME.jpg and test/...")
    return files


def _is_image(name: str) -> bool:
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
        raise DataError(f"{path}: a damaged archive ({fault}); download or create it again") from fault
    raise DataError(f"{path}: neither a folder nor a complete zip or tar; give one of these")


class _OwnPosition(io.RawIOBase):
    """A file that keeps its read position in this object.

    The system's own position of an open file would be shared by all processes that are forked from this one.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor, self._position = os.open(path, os.O_RDONLY), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        size = os.fstat(self._descriptor).st_size
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: size}[whence]
        return self._position

    def readinto(self, buffer: Buffer) -> int:
        count = os.preadv(self._descriptor, [buffer], self._position)
        self._position += count
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def _in_zip(path: Path) -> list[ImageFile]:
    archive = zipfile.ZipFile(io.BufferedReader(_OwnPosition(path)))
    members = (member for member in archive.infolist() if not member.is_dir())
    return [ImageFile(member.filename, partial(_read_member, archive, member)) for member in members]


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.file_size > MAX_BYTES:
        raise ImageError(f"{member.filename}: larger than {MAX_BYTES // 2**20} MB; scale it down")
    try:
        return archive.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as fault:
        raise ImageError(f"{member.filename}: {fault}; create the archive again") from fault


def _in_tar(path: Path) -> list[ImageFile]:
    files = []
    with tarfile.open(path) as archive:
        is_packed = not isinstance(archive.fileobj, io.BufferedReader)
        for member in archive:
            if member.isfile() and _is_image(member.name) and member.size <= MAX_BYTES:
                if is_packed or member.issparse():  # its bytes can only be read in order, so they are read now
                    content = cast(IO[bytes], archive.extractfile(member)).read()  # never None for a regular file
                    load = partial(bytes, content)
                else:
                    load = partial(_read_part, path, member.offset_data, member.size)
                files.append(ImageFile(PurePosixPath(member.name).as_posix(), load))
    return files


def _read_part(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def native_size(files: list[ImageFile], sample: int = 64) -> int:
    """Return the median length of the shorter side of about `sample` evenly spread images, in pixels.

    Raises:
        DataError: none of these images can be read.
    """
    sides = []
    for file in files[:: max(1, len(files) // sample)]:
        try:
            sides.append(min(read(file.load()).size))
        except (ImageError, OSError):
            continue
    if not sides:
        raise DataError("none of the sampled images can be read; check the files")
    return int(np.median(sides))


def pixels_of(file: ImageFile, input: Input) -> NDArray[np.uint8]:
    """Return the pixels of a file as uint8 [height, width, 3].

    Raises:
        DataError: the file can't be read.
    """
    try:
        content = io.BytesIO(file.load())
        content.name = file.name  # the reader uses it in its errors
        return pixels(content, input)
    except ImageError as fault:
        raise DataError(str(fault)) from fault
    except OSError as fault:
        raise DataError(f"{file.name}: {fault.strerror or fault}; check or remove the file") from fault


def digest(pixels: NDArray[np.uint8]) -> bytes:
    """Return a digest of the pixels of one image."""
    return hashlib.sha256(np.ascontiguousarray(pixels).data).digest()


def check_memory(count: int, input: Input) -> None:
    """Refuse `count` images whose pixels would not fit in memory.

    Raises:
        DataError: they would take more than 16 GiB.
    """
    needed = count * input.height * input.width * 3
    if needed > MAX_MEMORY:
        raise DataError(
            f"{count:,} images of {input.width}x{input.height} take {needed / 2**30:.0f} GiB of memory, "
            f"more than the {MAX_MEMORY // 2**30} allowed; set a smaller data.size"
        )


def decode(files: list[ImageFile], input: Input, progress: Progress) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Decode all files.

    Returns:
        the pixels, uint8 [N, height, width, 3], and the reason for each file that can't be read, by its index. The
        pixels of such a file are black; the caller has to drop them.

    Raises:
        DataError: more than 1 % of the files can't be read.
    """
    rows = np.zeros((len(files), input.height, input.width, 3), np.uint8)
    return rows, _read_all(files, input, progress, rows.__setitem__)


def survey(files: list[ImageFile], input: Input, progress: Progress) -> tuple[list[bytes], dict[int, str]]:
    """Decode all files without keeping their pixels.

    Returns:
        a digest of the pixels of each file, and the reason for each file that can't be read, by its index. The digest
        of such a file is empty; the caller has to drop it.

    Raises:
        DataError: more than 1 % of the files can't be read.
    """
    digests = [b""] * len(files)

    def keep(index: int, pixels: NDArray[np.uint8]) -> None:
        digests[index] = digest(pixels)

    return digests, _read_all(files, input, progress, keep)


def _read_all(
    files: list[ImageFile], input: Input, progress: Progress, keep: Callable[[int, NDArray[np.uint8]], None]
) -> dict[int, str]:
    """Call `keep` from threads with the index and the pixels of each file. Return why the other files can't be read."""
    bad: dict[int, str] = {}

    def read_one(index: int) -> None:
        try:
            keep(index, pixels_of(files[index], input))
        except DataError as fault:
            bad[index] = str(fault)

    progress.begin("reading images", len(files))
    indices = iter(range(len(files)))
    with ThreadPoolExecutor() as pool:
        while block := list(islice(indices, _LOOK_AHEAD)):
            for _ in pool.map(read_one, block):
                pass
            progress.step(len(block))
    progress.end()
    if len(bad) > MAX_BAD_SHARE * len(files):
        first = ", ".join(files[index].name for index in sorted(bad)[:3])
        raise DataError(
            f"{len(bad)} of {len(files)} images can't be read ({first}{', ...' if len(bad) > 3 else ''}), "
            "more than 1 %; repair or remove them"
        )
    return bad

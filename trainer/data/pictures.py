"""Picture files, wherever they lie, to pixels in memory, by the device's own reader: our only door to `sdk`."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np

from sdk.images import MAX_BYTES, SUFFIXES, ImageError, Input, Preprocessing, Resize, pixels, read

from ..errors import DataError
from ..watch import Watch

__all__ = ["Input", "Picture", "Preprocessing", "Resize", "decode", "find", "native_size"]

MAX_BAD_SHARE = 0.01
MAX_MEMORY = 16 * 2**30
_LOOK_AHEAD = 256


@dataclass(frozen=True)
class Picture:
    """A picture file: its name relative to the data (with /), and how to get its bytes."""

    name: str
    load: Callable[[], bytes]


def find(source: Path) -> list[Picture]:
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


def _in_folder(folder: Path) -> Iterator[Picture]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield Picture(path.relative_to(folder).as_posix(), path.read_bytes)


def _in_archive(path: Path) -> list[Picture]:
    try:
        if zipfile.is_zipfile(path):
            return _in_zip(path)
        if tarfile.is_tarfile(path):
            return _in_tar(path)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as fault:
        raise DataError(f"{path}: a damaged archive ({fault}); fetch or make it again") from fault
    raise DataError(f"{path}: neither a folder nor a whole zip or tar; give one of these")


def _in_zip(path: Path) -> list[Picture]:
    archive = zipfile.ZipFile(path)

    def loader(member: zipfile.ZipInfo) -> Callable[[], bytes]:
        def load() -> bytes:
            if member.file_size > MAX_BYTES:
                raise ImageError(f"{member.filename}: larger than {MAX_BYTES // 2**20} MB")
            try:
                return archive.read(member)
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as fault:
                raise ImageError(f"{member.filename}: {fault}") from fault

        return load

    return [Picture(member.filename, loader(member)) for member in archive.infolist() if not member.is_dir()]


def _in_tar(path: Path) -> list[Picture]:
    pictures = []
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and _is_picture(member.name) and member.size <= MAX_BYTES:
                data = archive.extractfile(member).read()  # now: a packed tar can't be read out of order
                pictures.append(Picture(PurePosixPath(member.name).as_posix(), lambda data=data: data))
    return pictures


def native_size(pictures: list[Picture], sample: int = 64) -> int:
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


def decode(pictures: list[Picture], input: Input, watch: Watch) -> tuple[np.ndarray, dict[int, str]]:
    """All pictures as uint8 [N, height, width, 3], and what is wrong with those that can't be read, by index.

    Decoding runs in threads. An unreadable picture's row stays black and is for the caller to drop.

    Raises:
        DataError: more than 1 % can't be read, or the pixels would not fit in memory.
    """
    needed = len(pictures) * input.height * input.width * 3
    if needed > MAX_MEMORY:
        raise DataError(
            f"{len(pictures):,} pictures of {input.width}x{input.height} take {needed / 2**30:.0f} GiB of memory, "
            f"more than the {MAX_MEMORY // 2**30} allowed; set a smaller data.size"
        )
    rows = np.zeros((len(pictures), input.height, input.width, 3), np.uint8)
    bad: dict[int, str] = {}

    def fill(index: int) -> None:
        try:
            file = io.BytesIO(pictures[index].load())
            file.name = pictures[index].name  # what the reader calls it in its errors
            rows[index] = pixels(file, input)
        except ImageError as fault:
            bad[index] = str(fault)
        except OSError as fault:
            bad[index] = f"{pictures[index].name}: {fault.strerror or fault}"

    watch.begin("reading pictures", len(pictures))
    indices = iter(range(len(pictures)))
    with ThreadPoolExecutor() as pool:
        while block := list(islice(indices, _LOOK_AHEAD)):
            for _ in pool.map(fill, block):
                pass
            watch.step(len(block))
    watch.end()
    if len(bad) > MAX_BAD_SHARE * len(pictures):
        first = ", ".join(pictures[index].name for index in sorted(bad)[:3])
        raise DataError(
            f"{len(bad)} of {len(pictures)} pictures can't be read ({first}{', ...' if len(bad) > 3 else ''}), "
            "more than 1 %; mend or remove them"
        )
    return rows, bad

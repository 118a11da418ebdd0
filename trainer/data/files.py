"""The pixels of image files, which `sdk.images` reads in the same way as on the device."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from runtimes.cores import usable_cores
from sdk.errors import ImageError
from sdk.folders import kinds_of, listed
from sdk.images import Input, Preprocessing, Resize, pixels, read

from ..errors import DataError
from ..progress import Progress
from .sources import ImageFile

__all__ = [
    "Input",
    "Preprocessing",
    "Resize",
    "check_memory",
    "check_same",
    "check_share",
    "content_of",
    "decode",
    "decode_again",
    "digest",
    "native_size",
    "nearest_multiple",
    "pixels_of",
    "survey",
]

MAX_BAD_SHARE = 0.01
MAX_MEMORY = 16 * 2**30
_FIRST, _LOOK_AHEAD = 32, 256
"""The number of images that one thread reads at a time, and several."""

_QUICK_S = 0.001
"""An image that takes less time than this is not worth a thread of its own: Python's threads wait for each other."""


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


def nearest_multiple(size: int, step: int) -> int:
    """Return the multiple of `step` that is nearest to `size`, and not 0."""
    return max(1, round(size / step)) * step


def pixels_of(file: ImageFile, input: Input) -> NDArray[np.uint8]:
    """Return the pixels of a file as uint8 [height, width, 3].

    Raises:
        DataError: the file can't be read.
    """
    content = io.BytesIO(content_of(file))
    content.name = file.name  # the reader uses it in its errors
    try:
        return pixels(content, input)
    except ImageError as fault:
        raise DataError(str(fault)) from fault


def content_of(file: ImageFile) -> bytes:
    """Return the bytes of a file.

    Raises:
        DataError: the file can't be read.
    """
    try:
        return file.load()
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
    """
    rows = np.zeros((len(files), input.height, input.width, 3), np.uint8)
    return rows, _read_all(files, input, progress, rows.__setitem__)


def decode_again(files: list[ImageFile], digests: list[bytes], input: Input, progress: Progress) -> NDArray[np.uint8]:
    """Decode files whose digests are known from `survey`, and return their pixels, uint8 [N, height, width, 3].

    Raises:
        DataError: a file has other pixels than at that time, or can't be read any more.
    """
    rows = np.zeros((len(files), input.height, input.width, 3), np.uint8)

    def keep(index: int, pixels: NDArray[np.uint8]) -> None:
        check_same(files[index], pixels, digests[index])
        rows[index] = pixels

    if bad := _read_all(files, input, progress, keep):
        raise DataError(bad[min(bad)])
    return rows


def check_same(file: ImageFile, pixels: NDArray[np.uint8], known: bytes) -> None:
    """Refuse pixels whose digest is not the one that is known.

    Raises:
        DataError: the file was replaced.
    """
    if digest(pixels) != known:
        raise DataError(f"{file.name}: shows another image than when this command began; put it back, or run again")


def survey(files: list[ImageFile], input: Input, progress: Progress) -> tuple[list[bytes], dict[int, str]]:
    """Decode all files without keeping their pixels.

    Returns:
        a digest of the pixels of each file, and the reason for each file that can't be read, by its index. The digest
        of such a file is empty; the caller has to drop it.
    """
    digests = [b""] * len(files)

    def keep(index: int, pixels: NDArray[np.uint8]) -> None:
        digests[index] = digest(pixels)

    return digests, _read_all(files, input, progress, keep)


def _read_all(
    files: list[ImageFile], input: Input, progress: Progress, keep: Callable[[int, NDArray[np.uint8]], None]
) -> dict[int, str]:
    """Call `keep` from threads with the index and the pixels of each file. Return why files can't be read or kept."""
    bad: dict[int, str] = {}

    def read_one(index: int) -> None:
        try:
            keep(index, pixels_of(files[index], input))
        except DataError as fault:
            bad[index] = str(fault)

    progress.begin("reading images", len(files))
    indices = iter(range(len(files)))
    with ThreadPoolExecutor(min(32, usable_cores() + 4)) as pool:  # some wait for the disk
        each: Callable[..., Iterator[None]] = map
        while block := list(islice(indices, _FIRST if each is map else _LOOK_AHEAD)):
            started = time.perf_counter()
            for _ in each(read_one, block):
                pass
            progress.step(len(block))
            if time.perf_counter() - started > _QUICK_S * len(block):
                each = pool.map
    progress.end()
    return bad


def check_share(bad: dict[int, str], files: list[ImageFile]) -> None:
    """Refuse files of which more than 1 % can't be read.

    Raises:
        DataError: that many can't be read; some are named.
    """
    if len(bad) > MAX_BAD_SHARE * len(files):
        names = [files[index].name for index in sorted(bad)]
        raise DataError(
            f"{len(bad)} of {len(files)} images can't be read ({kinds_of(names)}: {listed(names, 3)}), more than 1 %; "
            "repair or remove them, or leave them out by --skip-bad"
        )

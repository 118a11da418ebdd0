"""Folders of images: one rule, for training and for prediction, of which files are images."""

from __future__ import annotations

import errno
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from .files import read_start

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
"""A file with one of these suffixes is an image by its name alone."""

START_BYTES = 32
_START = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|BM....\0\0\0\0|P[1-6]\s+[#\d]", re.DOTALL)
"""The first bytes of an image. Text may begin with `BM` or `P5`, so more than the two letters is looked at."""
_TIFF = re.compile(rb"(II|MM)(\*\0|\0\*|\+\0|\0\+)")
_JUNK = frozenset(
    {
        "__macosx",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "icon\r",
        "lost+found",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
    }
)
"""The names, in lower case, that systems and network drives leave in folders and archives."""

_MAX_VISITS = 100


class Contents(NamedTuple):
    """The files in a folder or an archive.

    Attributes:
        images: the names of the images, sorted.
        others: the names of all other files, sorted; an empty folder is there too, with `/` at its end.
    """

    images: list[str]
    others: list[str]


def is_junk(name: str) -> bool:
    """Tell whether a file is no part of the data: it, or a folder that it lies in, is hidden or left by a system.

    Args:
        name: its path relative to the data, with `/`.
    """
    return any((part.startswith(".") and part != ".") or part.lower() in _JUNK for part in name.split("/"))


def is_image(name: str, start: Callable[[], bytes]) -> bool:
    """Tell whether a file is an image: its suffix says so or, with any other suffix or none, its first bytes.

    Cameras wrap their raw formats in TIFF, which Pillow would read as a thumbnail. So a TIFF is only recognised by its
    first bytes if it has no suffix at all.

    Args:
        name: its path; junk is for the caller to leave out.
        start: a function that returns its first `START_BYTES` bytes, called only if the suffix is not known.
    """
    suffix = _suffix(name)
    if suffix in SUFFIXES:
        return True
    content = start()
    return bool(_START.match(content) or (not suffix and _TIFF.match(content)))


def is_image_in(folder: Path, name: str) -> bool:
    """Tell whether what `walk` gives for a folder is an image."""
    return not name.endswith("/") and is_image(name, partial(_start, folder, name))


def images_in(folder: Path) -> Contents:
    """Return what lies below a folder, with names relative to it and with `/`. Junk is left out.

    Raises:
        OSError: see `walk`.
    """
    images, others = list[str](), list[str]()
    for name in walk(folder):
        (images if is_image_in(folder, name) else others).append(name)
    return Contents(sorted(images), sorted(others))


def walk(folder: Path) -> Iterator[str]:
    """Give the name of each file below a folder, relative to it and with `/`, and that of each empty folder with a `/`.

    Links are followed, except one that leads back into a folder above it. Junk is left out.

    Raises:
        OSError: a folder can't be listed, or is reached by too many links.
    """
    visits: Counter[str] = Counter()
    top = os.path.realpath(folder)
    waiting = [("", top, frozenset({top}))]  # a folder's name, its real path, and the real paths from the top to it
    while waiting:
        name, real, above = waiting.pop()
        visits[real] += 1
        if visits[real] > _MAX_VISITS:
            raise OSError(errno.ELOOP, f"more than {_MAX_VISITS} links lead to it", real)
        is_empty = True
        with os.scandir(folder / name) as listing:
            for entry in listing:  # not a list of them: a folder may hold millions
                if is_junk(entry.name):
                    continue
                is_empty = False
                if not _is_folder(entry):
                    yield name + entry.name
                    continue
                inner = os.path.realpath(entry.path) if entry.is_symlink() else os.fspath(Path(real) / entry.name)
                if inner not in above:
                    waiting.append((f"{name}{entry.name}/", inner, above | {inner}))
        if name and is_empty:
            yield name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself
        return False


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _start(folder: Path, name: str) -> bytes:
    try:
        return read_start(folder / name, START_BYTES)
    except OSError:
        return b""


def described(others: Sequence[str]) -> str:
    """Return a line about files that are no images; empty if there are none. Empty folders are left out.

    An example: `12 files are no images (.heic 11, no suffix 1): owl/1.heic, owl/2.heic, ... and 2 more`.
    """
    files = [name for name in others if not name.endswith("/")]
    if not files:
        return ""
    counted = "1 file is no image" if len(files) == 1 else f"{len(files):,} files are no images"
    return f"{counted} ({kinds_of(files)}): {listed(files)}"


def listed(names: Sequence[str], most: int = 10) -> str:
    """Return names with commas between them; of very many, the first ones and the number of the others."""
    more = f", ... and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def kinds_of(files: Sequence[str]) -> str:
    """Return the suffixes of files, each with its number: `.heic 11, no suffix 1`."""
    counts = Counter(_suffix(name) or "no suffix" for name in files).most_common()
    return ", ".join(f"{kind} {count:,}" for kind, count in counts[:4]) + (", ..." if len(counts) > 4 else "")

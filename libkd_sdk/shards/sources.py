"""The folders and tars that `predict --out` reads, and their names, which are the same on all machines."""

from __future__ import annotations

import os
import re
import stat
import tarfile
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path, PurePath
from typing import NamedTuple

from sdk.errors import UsageError
from sdk.folders import is_image_in, walk

from ..output import remark

_TAR = re.compile(r".*\.(tar(\.(gz|bz2|xz))?|tgz|tbz2?|txz)", re.IGNORECASE | re.DOTALL)


class Source(NamedTuple):
    """A folder of images, or a tar.

    Attributes:
        name: its path from the folder that holds all sources, with `/`; that of a folder of images ends with `/`.
        path: where it is on this machine.
    """

    name: str
    path: Path

    @property
    def is_folder(self) -> bool:
        return self.name.endswith("/")


def sources_of(given: Sequence[str]) -> list[Source]:
    """Return what a user names, sorted by name.

    Raises:
        UsageError: one is no folder and no tar, or lies in another one.
    """
    kinds = {PurePath(os.path.abspath(path)).parts: _kind(path) for path in given}  # noqa: PTH100 (no .. may stay)
    if len(kinds) < len(given):
        raise UsageError("a folder or a tar is named twice; name each of them once")
    for inner in kinds:
        if outer := next((inner[:n] for n in range(1, len(inner)) if inner[:n] in kinds), None):
            raise UsageError(f"{PurePath(*inner)}: lies in {PurePath(*outer)}, which is named too; name one of them")
    parents = zip(*(parts[:-1] for parts in kinds), strict=False)
    common = len(list(takewhile(lambda names: len(set(names)) == 1, parents)))
    found = [
        Source("/".join(parts[common:]) + kind, Path(path))
        for (parts, kind), path in zip(kinds.items(), given, strict=True)
    ]
    return sorted(found)


def _kind(path: str) -> str:
    """Return what the name of a source ends with: `/` for a folder."""
    try:
        about = Path(path).stat()
        if stat.S_ISDIR(about.st_mode):
            return "/"
        if stat.S_ISREG(about.st_mode) and (_TAR.fullmatch(path) or tarfile.is_tarfile(path)):
            return ""
    except OSError as fault:
        raise UsageError(f"{path}: no folder or tar that can be read ({fault.strerror}); check the path") from fault
    raise UsageError(f"{path}: neither a folder of images nor a tar; --out takes only these")


def images_of(folder: Path) -> Iterator[str]:
    """Give the name of each image below a folder in any order, and then tell how many files were left out.

    Raises:
        UsageError: a folder can't be listed, or there is no image.
    """
    found, others, example = 0, 0, ""
    try:
        for name in walk(folder):
            if is_image_in(folder, name):
                found += 1
                yield name
            elif not name.endswith("/"):  # an empty folder
                others += 1
                example = example or name
    except OSError as fault:
        raise UsageError(f"{fault.filename}: {fault.strerror}; repair or remove this folder") from fault
    counted = f"1 file is no image: {example}" if others == 1 else f"{others:,} files are no images, such as {example}"
    if not found:
        of_tars = "; name the tars themselves" if _TAR.fullmatch(example) else ""
        raise UsageError(f"{folder}: no images in this folder{f' ({counted})' if others else ''}{of_tars}")
    if others:
        remark(f"left out: {folder}: {counted}")

"""The split and the class of an image, which its place in a folder or an archive tells."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from .files import ImageFile, find

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""The names that the folder of a split may have, and the name of that split here."""

_EXPECTED = "expected CLASS/NAME.jpg, or train/CLASS/NAME.jpg with val/ or test/"


class LabelledFile(NamedTuple):
    """An image file with its split and its class.

    Attributes:
        split: `train`, `val`, `test`, `unlabelled`, or empty if the place of the file does not tell it.
        label: the name of the class; empty in the split `unlabelled`.
    """

    file: ImageFile
    split: str
    label: str


def labelled(sources: Sequence[Path]) -> list[LabelledFile]:
    """Return the image files of some folders and archives, with their splits and classes.

    Raises:
        DataError: a source holds no image, or its images do not lie as expected.
    """
    return [item for source in sources for item in _of_one(source)]


def loose(sources: Sequence[Path]) -> list[LabelledFile]:
    """Return all image files of some folders and archives, without labels. Their names begin with `unlabelled/`.

    Raises:
        DataError: a source holds no image.
    """
    files = [file for source in sources for file in find(source)]
    return [LabelledFile(ImageFile(f"unlabelled/{file.name}", file.load), "unlabelled", "") for file in files]


def check_names(found: Sequence[LabelledFile]) -> None:
    """Refuse two images with the same name, because they would have the same id.

    Raises:
        DataError: a name occurs twice.
    """
    for name, times in Counter(item.file.name for item in found).most_common(1):
        if times > 1:
            raise DataError(f"{name}: is in two of the sources; give each image once")


def _of_one(source: Path) -> list[LabelledFile]:
    files = _unwrapped(find(source))
    tops = {_top(file) for file in files}
    if tops <= SPLITS.keys() and all(file.name.count("/") > 1 for file in files):
        return [_placed(file, SPLITS[_top(file)], depth=1) for file in files]
    for file in files:
        # A class may be called "train", but then its images lie directly in its folder.
        if _top(file) in SPLITS and file.name.count("/") > 1:
            raise DataError(f"{source}: {_top(file)}/ is beside class folders; {_EXPECTED}, and no other")
    split = "" if source.is_dir() else _named_split(source)
    if split:
        files = [ImageFile(f"{split}/{file.name}", file.load) for file in files]
    return [_placed(file, split, depth=1 if split else 0) for file in files]


def _unwrapped(files: list[ImageFile]) -> list[ImageFile]:
    """Remove the single folder in which an archive often wraps all its files from their names."""
    tops = {_top(file) for file in files}
    if len(tops) == 1 and not tops & SPLITS.keys() and all(file.name.count("/") > 1 for file in files):
        return [ImageFile(file.name.partition("/")[2], file.load) for file in files]
    return files


def _top(file: ImageFile) -> str:
    return file.name.partition("/")[0]


def _named_split(archive: Path) -> str:
    """Return the split that the name of an archive tells; empty if it tells none, or several."""
    told = {SPLITS[word] for word in re.split(r"[^a-z]+", archive.stem.lower()) if word in SPLITS}
    return told.pop() if len(told) == 1 else ""


def _placed(file: ImageFile, split: str, depth: int) -> LabelledFile:
    folders = file.name.split("/")[:-1]
    if len(folders) <= depth:
        raise DataError(f"{file.name}: lies in no class folder; {_EXPECTED}")
    return LabelledFile(file, split, folders[depth])

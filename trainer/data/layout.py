"""What the place of a picture says of it: its split and its class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from .files import ImageFile, find

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""How a split may be called, and what it is called here."""

_EXPECTED = "expected CLASS/NAME.jpg, or train/CLASS/NAME.jpg with val/ or test/"


class LabelledFile(NamedTuple):
    """A picture of the class `label` in `split`: `train`, `val`, `test`, or empty where nothing says.

    In the split `unlabelled`, `label` is empty.
    """

    file: ImageFile
    split: str
    label: str


def labelled(sources: Sequence[Path]) -> list[LabelledFile]:
    """The pictures of some folders and archives.

    Raises:
        DataError: there are none, or they do not lie as they should.
    """
    return [item for source in sources for item in _of_one(source)]


def loose(sources: Sequence[Path]) -> list[LabelledFile]:
    """The pictures of some folders and archives, however they lie; their names begin with `unlabelled/`.

    Raises:
        DataError: a source holds none.
    """
    pictures = [picture for source in sources for picture in find(source)]
    return [
        LabelledFile(ImageFile(f"unlabelled/{picture.name}", picture.load), "unlabelled", "") for picture in pictures
    ]


def check_names(found: Sequence[LabelledFile]) -> None:
    """Refuse two pictures of one name: they would have one id.

    Raises:
        DataError: a name stands there twice.
    """
    for name, times in Counter(item.file.name for item in found).most_common(1):
        if times > 1:
            raise DataError(f"{name}: stands in two of the sources; give each picture once")


def _of_one(source: Path) -> list[LabelledFile]:
    pictures = _unwrapped(find(source))
    tops = {_top(picture) for picture in pictures}
    if tops <= SPLITS.keys() and all(picture.name.count("/") > 1 for picture in pictures):
        return [_placed(picture, SPLITS[_top(picture)], depth=1) for picture in pictures]
    for picture in pictures:
        # a class may be called "train", but then its pictures lie in it, and not in folders of it
        if _top(picture) in SPLITS and picture.name.count("/") > 1:
            raise DataError(f"{source}: {_top(picture)}/ stands beside class folders; {_EXPECTED}, and no other")
    split = "" if source.is_dir() else _named_split(source)
    if split:
        pictures = [ImageFile(f"{split}/{picture.name}", picture.load) for picture in pictures]
    return [_placed(picture, split, depth=1 if split else 0) for picture in pictures]


def _unwrapped(pictures: list[ImageFile]) -> list[ImageFile]:
    """Without the one folder that an archive often wraps around everything."""
    tops = {_top(picture) for picture in pictures}
    if len(tops) == 1 and not tops & SPLITS.keys() and all(picture.name.count("/") > 1 for picture in pictures):
        return [ImageFile(picture.name.partition("/")[2], picture.load) for picture in pictures]
    return pictures


def _top(picture: ImageFile) -> str:
    return picture.name.partition("/")[0]


def _named_split(archive: Path) -> str:
    """The split that an archive's name tells, if it tells one."""
    told = {SPLITS[word] for word in re.split(r"[^a-z]+", archive.stem.lower()) if word in SPLITS}
    return told.pop() if len(told) == 1 else ""


def _placed(picture: ImageFile, split: str, depth: int) -> LabelledFile:
    folders = picture.name.split("/")[:-1]
    if len(folders) <= depth:
        raise DataError(f"{picture.name}: lies in no class folder; {_EXPECTED}")
    return LabelledFile(picture, split, folders[depth])

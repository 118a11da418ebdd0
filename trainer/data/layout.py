"""The split and the class of an image, which its place in a folder or an archive tells."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from sdk.folders import described, kinds_of, listed

from ..errors import DataError
from .sources import ImageFile, find

SPLITS = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""The words that the name of a split may contain, and the name of that split here."""

_WORD = re.compile(rf"(?<![a-z])({'|'.join(SPLITS)})(?=set|data|images?|[^a-z]|$)")
_EXPECTED = "expected CLASS/NAME.jpg, or train/CLASS/NAME.jpg with val/ or test/"
_FEW = 10
"""So many folders at most could be splits, such as the parts of a cross-validation."""


class LabelledFile(NamedTuple):
    """An image file with its split and its class.

    Attributes:
        split: `train`, `val`, `test`, `unlabelled`, or empty if the place of the file does not tell it.
        label: the name of the class; empty in the split `unlabelled`.
    """

    file: ImageFile
    split: str
    label: str


class Labelled(NamedTuple):
    """The images of some sources.

    Attributes:
        images: the image files, with their splits and classes.
        left_out: a line for each source with files that are no images.
    """

    images: list[LabelledFile]
    left_out: list[str]


def labelled(sources: Sequence[Path]) -> Labelled:
    """Return the image files of some folders and archives, with their splits and classes.

    Raises:
        DataError: a source holds no image, its files do not lie as expected, or a class has files but no image.
    """
    splits = [split_of_source(source) for source in sources]
    if not {"val", "test"} & set(splits) or len(sources) == 1:
        # Folders are parts of the same data, whatever their names are, unless one of them is named after its split.
        splits = ["" if source.is_dir() else split for source, split in zip(sources, splits, strict=True)]
    return _joined(_of_one(source, split) for source, split in zip(sources, splits, strict=True))


def loose(sources: Sequence[Path]) -> Labelled:
    """Return all image files of some folders and archives, without labels. Their names begin with `unlabelled/`.

    Raises:
        DataError: a source holds no image.
    """
    return _joined(_of_loose(source) for source in sources)


def check_names(found: Sequence[LabelledFile]) -> None:
    """Refuse two images with the same name, because they would have the same id.

    Raises:
        DataError: a name occurs twice.
    """
    for name, times in Counter(item.file.name for item in found).most_common(1):
        if times > 1:
            raise DataError(f"{name}: is in two of the sources; give each image once")


def _joined(parts: Iterable[Labelled]) -> Labelled:
    images, left_out = list[LabelledFile](), list[str]()
    for part in parts:
        images += part.images
        left_out += part.left_out
    return Labelled(images, left_out)


def _of_loose(source: Path) -> Labelled:
    files, others = find(source)
    images = [ImageFile(f"unlabelled/{file.name}", file.load) for file in files]
    return Labelled([LabelledFile(file, "unlabelled", "") for file in images], _left_out(source, others))


def _left_out(source: Path, others: list[str]) -> list[str]:
    return [f"{source}: {described(others)}"] if described(others) else []


def _of_one(source: Path, split: str) -> Labelled:
    files, others = find(source)
    wrapper = _wrapper([file.name for file in files])
    names = [file.name.removeprefix(wrapper) for file in files]
    beside = [name.removeprefix(wrapper) for name in others if name.startswith(wrapper)]
    layout = _layout(source, names, beside, split)
    _refuse_strays([name for name in names if layout.place(name) is None])
    images = [_placed(file, name, layout) for file, name in zip(files, names, strict=True)]
    _check_labels({item.label for item in images})
    _check_classes(source, {(item.split, item.label) for item in images}, beside, layout)
    return Labelled(images, _left_out(source, others))


def _wrapper(names: Sequence[str]) -> str:
    """Return the folders, with `/` at the end, in which an archive often wraps everything. A split wraps nothing."""
    wrapper = ""
    while True:
        inside = [name.removeprefix(wrapper) for name in names]
        top, *others = {name.partition("/")[0] for name in inside}
        if others or _is_split(top) or not all(name.count("/") > 1 for name in inside):
            return wrapper
        wrapper += f"{top}/"


class _Told(NamedTuple):
    """The split that a name tells, and the rest of the name: `("train", "seg")` for `seg_train`."""

    split: str
    rest: str


def _told(name: str) -> _Told | None:
    """Return the split that a name tells; None if it tells none, or several."""
    words = re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()
    told = {SPLITS[word] for word in _WORD.findall(words)}
    return _Told(told.pop(), _WORD.sub("", words).strip(" _-.")) if len(told) == 1 else None


def _is_split(name: str) -> bool:
    """Tell whether a name is that of a split, and nothing else."""
    told = _told(name)
    return told is not None and not told.rest


def split_of_source(source: Path) -> str:
    told = _told(source.name if source.is_dir() else source.stem)
    return told.split if told else ""


class _Layout(NamedTuple):
    """The meaning of the folders above an image.

    Attributes:
        splits: the split of each top folder; empty if the top folders are classes.
        split: the split of all images if the top folders are classes; empty if it is not known.
        depth: the number of folders above the class folder.
    """

    splits: dict[str, str]
    split: str
    depth: int

    def place(self, name: str) -> tuple[str, str] | None:
        """Return the split and the class of a file; None if it lies in no class folder."""
        top, *_ = folders = name.split("/")[:-1] or [""]
        if len(folders) <= self.depth or not folders[self.depth] or (self.splits and top not in self.splits):
            return None
        return self.splits.get(top, self.split), folders[self.depth]


def _layout(source: Path, names: Sequence[str], others: Sequence[str], split: str) -> _Layout:
    """Return how the images of a source lie.

    Args:
        names, others: the names of the images and of the other files.
        split: the split that the name of the source tells.

    Raises:
        DataError: it is not clear which folders are splits.
    """
    inner = _folders(names)
    told = {top: it for top in inner if (it := _told(top))}
    if _are_splits(inner, told):
        rests = {it.rest for it in told.values()} | {""}
        tops = {name.partition("/")[0] for name in (*names, *others) if "/" in name}
        splits = {top: it.split for top in tops if (it := _told(top)) and it.rest in rests}
        return _Layout(splits, "", 2 if _are_wrapped(inner) else 1)
    _check_splits(source, inner, told)
    _check_few(source, inner)
    return _Layout({}, split, 0)


def _folders(names: Sequence[str]) -> dict[str, set[str]]:
    """Return for each top folder the folders in it that hold images, as paths relative to it; `""` is itself.

    Raises:
        DataError: an image lies in no folder.
    """
    _refuse_strays([name for name in names if name.find("/") < 1])
    inner = defaultdict[str, set[str]](set)
    for name in names:
        top, *inside = name.split("/")[:-1]
        inner[top].add("/".join(inside))
    return inner


def _are_splits(inner: dict[str, set[str]], told: dict[str, _Told]) -> bool:
    """Tell whether each top folder is another split, and what stands around their names is the same."""
    are_different = len({it.split for it in told.values()}) == len(inner)
    are_alike = len({it.rest for it in told.values()} - {""}) < 2
    return are_different and are_alike and (len(inner) > 1 or any(inside != {""} for inside in inner.values()))


def _are_wrapped(inner: dict[str, set[str]]) -> bool:
    """Tell whether each split has all its classes in one more folder, such as `seg_train/seg_train/CLASS`."""
    return all(len(_first(inside)) == 1 and all("/" in path for path in inside) for inside in inner.values())


def _first(paths: set[str]) -> set[str]:
    return {path.partition("/")[0] for path in paths}


def _check_splits(source: Path, inner: dict[str, set[str]], told: dict[str, _Told]) -> None:
    """Refuse splits that lie beside class folders or in them."""
    for one, other in combinations(told, 2):
        if told[one].rest == told[other].rest and told[one].split != told[other].split:
            third = min(inner.keys() - {one, other}, key=lambda top: (top in told, top))
            raise DataError(
                f"{source}: {third}/ is beside {one}/ and {other}/, which look like splits; move it away or rename them"
            )
    for top, inside in inner.items():
        # A class may be called "train", but then its images lie directly in its folder.
        if _is_split(top) and inside != {""}:
            raise DataError(f"{source}: {top}/ is beside class folders; {_EXPECTED}, and no other")
        within = sorted(filter(_is_split, _first(inside)))
        if len({_told(name) for name in within}) > 1:
            raise DataError(
                f"{source}: {top}/ holds {within[0]}/ and {within[1]}/; put the classes into the splits: "
                f"{within[0]}/{top}/NAME.jpg"
            )


def _check_few(source: Path, inner: dict[str, set[str]]) -> None:
    """Refuse a few folders with the same folders in them: splits whose names are not known would become classes."""
    for one, other in combinations(inner, 2) if len(inner) <= _FEW else ():
        are_classes = "" in inner[one] & inner[other]  # their images lie directly in them
        first, second = inner[one] - {""}, inner[other] - {""}
        common = sorted(first & second)
        if not are_classes and len(first | second) > 1 and 2 * len(common) > min(len(first), len(second)):
            raise DataError(
                f"{source}: {one}/ and {other}/ hold the same folders ({', '.join(common[:3])}"
                f"{', ...' if len(common) > 3 else ''}); if they are splits, rename them to train/, val/ and test/; if "
                "they are classes, move their images directly into them"
            )


def _refuse_strays(strays: Sequence[str]) -> None:
    """Refuse images outside of class folders, because their class is not known."""
    if strays:
        lie, them = ("lies", "it") if len(strays) == 1 else ("lie", "them")
        raise DataError(f"{listed(strays)}: {lie} in no class folder; move {them} into one, or away; {_EXPECTED}")


def _placed(file: ImageFile, name: str, layout: _Layout) -> LabelledFile:
    place = layout.place(name)
    assert place is not None  # or it was refused before
    name = f"{layout.split}/{name}" if layout.split else name
    return LabelledFile(ImageFile(name, file.load), *place)


def _check_labels(labels: Iterable[str]) -> None:
    """Refuse names of class folders that no bundle can hold."""
    for label in labels:
        if not re.fullmatch(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,500}", label):
            raise DataError(f"class folder {label!r}: its name is not UTF-8, or has control characters; rename it")


def _check_classes(source: Path, classes: set[tuple[str, str]], others: Sequence[str], layout: _Layout) -> None:
    """Refuse a class folder without any image, because the class would silently be missing."""
    without = defaultdict[str, list[str]](list)
    for name in others:
        if (place := layout.place(name)) is not None and place not in classes:
            without["/".join(name.split("/")[: layout.depth + 1])].append(name)
    for folder, names in sorted(without.items()):
        if any(name.endswith("/recipe.toml") for name in names):
            continue  # a run may lie beside the classes that it learns
        if files := [name for name in names if not name.endswith("/")]:
            raise DataError(
                f"{source}: class folder {folder}/ has no image that can be read, only {kinds_of(files)}; save them as "
                "JPEG or PNG, or move the folder away"
            )
        raise DataError(f"{source}: class folder {folder}/ is empty; put images into it, or remove it")

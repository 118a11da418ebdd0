"""Labelled pictures: folders, archives and named sets, to uint8 pixels, labels and stable ids."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import torch

from .. import recipe
from ..errors import DataError
from ..watch import Unwatched, Watch
from .named import FASHION_MNIST_LABELS, FASHION_MNIST_MINI, fashion_mnist
from .pictures import Input, Picture, Preprocessing, Resize, decode, find, native_size
from .split import Split, sample_ids

__all__ = ["Dataset", "Input", "Preprocessing", "Split", "load", "load_labelled"]

LARGEST_DEFAULT_SIZE = 96
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


@dataclass(frozen=True)
class Dataset:
    """What a run is trained on and judged by.

    Attributes:
        train, validation, test: nothing is ever chosen by the test set.
        labels: class names, sorted but for named sets.
        preprocessing: how a picture becomes what the nets see.
        skipped: pictures that could not be read, each with its reason.
    """

    train: Split
    validation: Split
    test: Split
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    skipped: list[str] = field(default_factory=list)

    def hash(self) -> str:
        """Names the content of all splits, and the labels."""
        parts = (self.train.hash(), self.validation.hash(), self.test.hash(), *self.labels)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def load(
    sources: Sequence[str | Path],
    how: recipe.Data | None = None,
    *,
    root: Path | None = None,
    watch: Watch | None = None,
) -> Dataset:
    """The data that `sources` name: `fashion-mnist`, `fashion-mnist-mini`, or folders and archives (zip, tar).

    Files lie as `train/CLASS/NAME` with `val/...`, `test/...` or both, or as `CLASS/NAME` in archives whose names say
    which split they are (`photos-train-0.zip`), or as `CLASS/NAME` alone. What is missing is held back from the
    training pictures: `how.holdout` of each class for validation, and as much again for the test. A single `val` is
    the test.

    Raises:
        DataError: there are no such pictures, or they can't be used; the message says why.
    """
    how = how or recipe.Data()
    if list(sources) == ["fashion-mnist"]:
        return _from_named(fashion_mnist(root), FASHION_MNIST_LABELS, how)
    return _from_pictures(_pictures(sources), how, watch or Unwatched())


def load_labelled(
    sources: Sequence[str | Path],
    labels: Sequence[str],
    input: Input,
    *,
    root: Path | None = None,
    watch: Watch | None = None,
) -> Split:
    """The labelled pictures that `sources` name, as a trained model takes them: those of test/ or val/ if there is one,
    else all.

    Raises:
        DataError: there are no such pictures, one is of a class that is not among `labels`, or some can't be read.
    """
    if list(sources) == ["fashion-mnist"]:
        test = fashion_mnist(root)["test"]
        if tuple(labels) != FASHION_MNIST_LABELS or tuple(test.images.shape[1:3]) != (input.height, input.width):
            raise DataError("fashion-mnist: has other classes, or another size, than this model")
        return test
    pictures = _pictures(sources)
    places = [_place(picture) for picture in pictures]
    wanted = next((split for split in ("test", "val") if any(place == split for place, _ in places)), None)
    chosen = [i for i, (split, _) in enumerate(places) if wanted in (None, split)]
    strangers = {places[i][1] for i in chosen} - set(labels)
    if strangers:
        raise DataError(f"class {min(strangers)!r} is none of the model's {len(labels)}; rename or remove its folder")
    rows, bad = decode([pictures[i] for i in chosen], input, watch or Unwatched())
    kept = [row for row in range(len(chosen)) if row not in bad]
    names = [pictures[chosen[row]].name for row in kept]
    classes = [list(labels).index(places[chosen[row]][1]) for row in kept]
    return Split(torch.from_numpy(rows[kept]), torch.tensor(classes), sample_ids(names), names)


def _pictures(sources: Sequence[str | Path]) -> list[Picture]:
    """The picture files of all sources, none twice."""
    if list(sources) == ["fashion-mnist-mini"]:
        sources = [FASHION_MNIST_MINI]
    pictures = [picture for source in sources for picture in _with_split(Path(source))]
    twice = [name for name, times in Counter(picture.name for picture in pictures).items() if times > 1]
    if twice:
        raise DataError(f"{twice[0]}: stands in two of the sources; give each picture once")
    return pictures


def _from_named(splits: dict[str, Split], labels: tuple[str, ...], how: recipe.Data) -> Dataset:
    native = splits["train"].images.shape[1]
    if how.size not in (None, native):
        raise DataError(f"this set has {native}x{native} pictures; leave data.size out")
    train, validation = _hold_back(splits["train"], labels, how.holdout)
    return Dataset(train, validation, splits["test"], labels, _preprocessing(native, how))


def _preprocessing(size: int, how: recipe.Data) -> Preprocessing:
    return Preprocessing(
        input=Input(height=size, width=size, resize=Resize(mode="cover", size=(size, size))), mean=how.mean, std=how.std
    )


def _with_split(source: Path) -> list[Picture]:
    """The pictures of one source as `SPLIT/CLASS/...` or, where nothing says the split, `CLASS/...`."""
    pictures = find(source)
    roots = {PurePosixPath(picture.name).parts[0] for picture in pictures}
    if len(roots) == 1 and not roots & _SPLIT_WORDS.keys() and all(picture.name.count("/") > 1 for picture in pictures):
        pictures = [Picture(picture.name.partition("/")[2], picture.load) for picture in pictures]
    if not source.is_dir():
        words = {_SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", source.stem.lower()) if word in _SPLIT_WORDS}
        inside = {PurePosixPath(picture.name).parts[0] for picture in pictures} & _SPLIT_WORDS.keys()
        if len(words) == 1 and not inside:
            pictures = [Picture(f"{min(words)}/{picture.name}", picture.load) for picture in pictures]
    return pictures


def _place(picture: Picture) -> tuple[str, str]:
    """(split or '', class) of a picture."""
    first, *rest = PurePosixPath(picture.name).parts
    split = _SPLIT_WORDS.get(first, "")
    if len(rest) < 1 + bool(split):
        raise DataError(f"{picture.name}: lies in no class folder; expected CLASS/NAME.jpg or train/CLASS/NAME.jpg")
    return split, rest[0] if split else first


def _from_pictures(pictures: list[Picture], how: recipe.Data, watch: Watch) -> Dataset:
    names = [picture.name for picture in pictures]
    places = [_place(picture) for picture in pictures]
    given = {split for split, _ in places}
    if given not in ({""}, {"train"}) and not ("train" in given and "" not in given):
        raise DataError(
            f"found {sorted(given)} beside class folders; expected train/, with val/ or test/, and no other"
        )
    labels = tuple(sorted({label for split, label in places if split in ("", "train")}))
    if len(labels) < 2:
        raise DataError(f"only one class ({labels[0]}); a classifier needs two or more class folders")
    strangers = {label for _, label in places} - set(labels)
    if strangers:
        raise DataError(f"class {min(strangers)!r} has no training pictures; add some to train/ or remove it")

    size = how.size or min(native_size(pictures), LARGEST_DEFAULT_SIZE)
    preprocessing = _preprocessing(size, how)
    rows, bad = decode(pictures, preprocessing.input, watch)

    def split(*wanted: str) -> Split:
        kept = [i for i, (place, _) in enumerate(places) if place in wanted and i not in bad]
        classes = torch.tensor([labels.index(places[i][1]) for i in kept], dtype=torch.int64)
        kept_names = [names[i] for i in kept]
        return Split(torch.from_numpy(rows[kept]), classes, sample_ids(kept_names), kept_names)

    train = split("", "train")
    if {"val", "test"} <= given:
        validation, test = split("val"), split("test")
        _hold_back(train, labels, how.holdout)  # only for its check that each class has pictures enough
    elif given & {"val", "test"}:
        train, validation = _hold_back(train, labels, how.holdout)
        test = split("val", "test")
    else:
        rest, test = _hold_back(train, labels, how.holdout, needed=3)
        train, validation = _hold_back(rest, labels, how.holdout / (1 - how.holdout))
    return Dataset(train, validation, test, labels, preprocessing, [bad[index] for index in sorted(bad)])


def _hold_back(split: Split, labels: tuple[str, ...], share: float, needed: int = 2) -> tuple[Split, Split]:
    """Two parts of a split, `share` of each class (at least one picture) in the second, chosen by the ids alone."""
    held: list[int] = []
    for number, label in enumerate(labels):
        members = (split.labels == number).nonzero().flatten()
        if len(members) < needed:
            raise DataError(
                f"class {label!r} has {len(members)} readable picture{'s' * (len(members) != 1)}, "
                f"but needs {needed} or more to be split; add pictures or remove the class"
            )
        by_id = members[split.ids[members].argsort()]
        held += by_id[: max(1, round(share * len(members)))].tolist()
    is_held = torch.zeros(len(split), dtype=torch.bool)
    is_held[held] = True
    return split.take((~is_held).nonzero().flatten()), split.take(is_held.nonzero().flatten())

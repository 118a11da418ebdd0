"""Labelled pictures: folders, archives and named sets, to uint8 pixels, labels and stable ids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from .. import recipe
from ..errors import DataError
from ..watch import Unwatched, Watch
from .inputs import to_input
from .layout import Labelled, labelled
from .named import FASHION_MNIST_LABELS, FASHION_MNIST_MINI, fashion_mnist
from .pictures import Input, Preprocessing, Resize, decode, native_size
from .split import Split, sample_ids

__all__ = ["Dataset", "Input", "Preprocessing", "Split", "load", "load_labelled", "to_input"]

LARGEST_DEFAULT_SIZE = 96


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
    return _from_pictures(labelled(_places(sources)), how, watch or Unwatched())


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
    found = labelled(_places(sources))
    wanted = next((split for split in ("test", "val") if any(item.split == split for item in found)), None)
    chosen = [item for item in found if wanted in (None, item.split)]
    strangers = {item.label for item in chosen} - set(labels)
    if strangers:
        raise DataError(f"class {min(strangers)!r} is none of the model's {len(labels)}; rename or remove its folder")
    rows, bad = decode([item.picture for item in chosen], input, watch or Unwatched())
    return _split(chosen, rows, [index for index in range(len(chosen)) if index not in bad], labels)


def _places(sources: Sequence[str | Path]) -> list[Path]:
    return [FASHION_MNIST_MINI if source == "fashion-mnist-mini" else Path(source) for source in sources]


def _split(found: list[Labelled], rows: np.ndarray, indices: list[int], labels: Sequence[str]) -> Split:
    """Some of the decoded pictures."""
    number = {label: index for index, label in enumerate(labels)}
    names = [found[index].picture.name for index in indices]
    classes = torch.tensor([number[found[index].label] for index in indices], dtype=torch.int64)
    return Split(torch.from_numpy(rows[indices]), classes, sample_ids(names), names)


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


def _from_pictures(found: list[Labelled], how: recipe.Data, watch: Watch) -> Dataset:
    given = {item.split for item in found}
    if not ("train" in given and "" not in given) and given != {""}:
        raise DataError("pictures for training are missing, or lie beside the others; put them into train/")
    labels = tuple(sorted({item.label for item in found if item.split in ("", "train")}))
    if len(labels) < 2:
        raise DataError(f"only one class ({labels[0]}); a classifier needs two or more class folders")
    strangers = {item.label for item in found} - set(labels)
    if strangers:
        raise DataError(f"class {min(strangers)!r} has no training pictures; add some to train/ or remove it")

    pictures = [item.picture for item in found]
    size = how.size or min(native_size(pictures), LARGEST_DEFAULT_SIZE)
    preprocessing = _preprocessing(size, how)
    rows, bad = decode(pictures, preprocessing.input, watch)

    def split(*wanted: str) -> Split:
        indices = [index for index, item in enumerate(found) if item.split in wanted and index not in bad]
        return _split(found, rows, indices, labels)

    train = split("", "train")
    if {"val", "test"} <= given:
        validation, test = split("val"), split("test")
        _check_enough(train, labels, 1)
    elif given & {"val", "test"}:
        _check_enough(train, labels, 2)
        train, validation = _hold_back(train, labels, how.holdout)
        test = split("val", "test")
    else:
        _check_enough(train, labels, 3)
        rest, test = _hold_back(train, labels, how.holdout)
        train, validation = _hold_back(rest, labels, how.holdout / (1 - how.holdout))
    return Dataset(train, validation, test, labels, preprocessing, [bad[index] for index in sorted(bad)])


def _check_enough(split: Split, labels: tuple[str, ...], needed: int) -> None:
    counts = torch.bincount(split.labels, minlength=len(labels)).tolist()
    for label, count in zip(labels, counts, strict=True):
        if count < needed:
            raise DataError(
                f"class {label!r} has {count} readable picture{'s' * (count != 1)}, but needs {needed} or more: "
                "one in each split; add pictures or remove the class"
            )


def _hold_back(split: Split, labels: tuple[str, ...], share: float) -> tuple[Split, Split]:
    """Two parts of a split, `share` of each class (at least one picture) in the second, chosen by the ids alone."""
    held: list[int] = []
    for number in range(len(labels)):
        members = (split.labels == number).nonzero().flatten()
        by_id = members[split.ids[members].argsort()]
        held += by_id[: max(1, round(share * len(members)))].tolist()
    is_held = torch.zeros(len(split), dtype=torch.bool)
    is_held[held] = True
    return split.take((~is_held).nonzero().flatten()), split.take(is_held.nonzero().flatten())

"""Training, validation and test: the splits of the images of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError
from ..progress import Progress
from ..recipe import DataRecipe
from .dataset import Dataset
from .files import Preprocessing
from .split import UNLABELLED, Split


class Readable(NamedTuple):
    """All images that could be read, before they are divided into splits.

    Attributes:
        whole: the images.
        places: the split of each; see `LabelledFile`.
        labels, preprocessing, skipped: see `Dataset`.
    """

    whole: Split
    places: list[str]
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    skipped: list[str]


class Division(NamedTuple):
    """The images of each split: int64 indices into all of them."""

    train: Tensor
    validation: Tensor
    test: Tensor
    unlabelled: Tensor


def divide(readable: Readable, how: DataRecipe, progress: Progress) -> Dataset:
    """Divide all images into splits. Missing splits are held back from the training images."""
    whole, places, labels, preprocessing, skipped = readable
    found = division(whole.labels, whole.ids, places, labels, how)
    return Dataset(
        train=whole.take(found.train),
        validation=whole.take(found.validation).in_memory(progress),
        test=whole.take(found.test).in_memory(progress),
        labels=labels,
        preprocessing=preprocessing,
        skipped=skipped,
        unlabelled=_without_labels(whole.take(found.unlabelled)) if len(found.unlabelled) else None,
    )


def division(classes: Tensor, ids: Tensor, places: Sequence[str], labels: Sequence[str], how: DataRecipe) -> Division:
    """Return the images of each split. It depends on no other images than those of the same class.

    Args:
        classes: the class of each image, int64 [N].
        ids: int64 [N].
        places: what is known of the split of each; see `LabelledFile`.
        labels: the class names.

    Raises:
        DataError: a class has too few images.
    """

    def members(*wanted: str) -> Tensor:
        return torch.tensor([index for index, place in enumerate(places) if place in wanted], dtype=torch.int64)

    def held_back(members: Tensor, share: float) -> tuple[Tensor, Tensor]:
        return _hold_back(classes[members], ids[members], members, share)

    given, train = set(places), members("", "train")
    if {"val", "test"} <= given:
        _check_enough(classes[train], labels, 1)
        validation, test = members("val"), members("test")
    elif given & {"val", "test"}:
        _check_enough(classes[train], labels, 2)
        train, validation = held_back(train, how.holdout)
        test = members("val", "test")
    else:
        _check_enough(classes[train], labels, 3)
        train, test = held_back(train, how.holdout)
        train, validation = held_back(train, how.holdout / (1 - how.holdout))
    unlabelled = members("unlabelled")
    if how.labels < 1:
        rest, train = held_back(train, how.labels)
        unlabelled = torch.cat([rest, unlabelled])
    return Division(train, validation, test, unlabelled)


def _check_enough(classes: Tensor, labels: Sequence[str], needed: int) -> None:
    counts = torch.bincount(classes, minlength=len(labels)).tolist()
    for label, count in zip(labels, counts, strict=True):
        if count < needed:
            raise DataError(
                f"class {label!r} has {count} readable image{'s' * (count != 1)}, but needs {needed} or more: "
                "one in each split; add images or remove the class"
            )


def _hold_back(classes: Tensor, ids: Tensor, members: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Divide `members`, int64 indices, into two parts.

    The second part gets `share` of each class, but at least one image. The choice depends on the ids only.
    """
    is_held = torch.zeros(len(members), dtype=torch.bool)
    for number in classes.unique():
        alike = (classes == number).nonzero().flatten()
        by_id = alike[ids[alike].argsort()]
        is_held[by_id[: max(1, round(share * len(alike)))]] = True
    return members[~is_held], members[is_held]


def _without_labels(split: Split) -> Split:
    return replace(split, labels=torch.full_like(split.labels, UNLABELLED))

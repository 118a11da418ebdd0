"""Training, validation and test: the splits of the images of a dataset."""

from __future__ import annotations

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


def divide(readable: Readable, how: DataRecipe, progress: Progress) -> Dataset:
    """Divide all images into splits. Missing splits are held back from the training images."""
    whole, places, labels, preprocessing, skipped = readable

    def members(*wanted: str) -> Tensor:
        return torch.tensor([index for index, place in enumerate(places) if place in wanted], dtype=torch.int64)

    given, train = set(places), members("", "train")
    if {"val", "test"} <= given:
        _check_enough(whole, train, labels, 1)
        validation, test = members("val"), members("test")
    elif given & {"val", "test"}:
        _check_enough(whole, train, labels, 2)
        train, validation = _hold_back(whole, train, how.holdout)
        test = members("val", "test")
    else:
        _check_enough(whole, train, labels, 3)
        train, test = _hold_back(whole, train, how.holdout)
        train, validation = _hold_back(whole, train, how.holdout / (1 - how.holdout))
    unlabelled = members("unlabelled")
    if how.labels < 1:
        rest, train = _hold_back(whole, train, how.labels)
        unlabelled = torch.cat([rest, unlabelled])
    return Dataset(
        train=whole.take(train),
        validation=whole.take(validation).in_memory(progress),
        test=whole.take(test).in_memory(progress),
        labels=labels,
        preprocessing=preprocessing,
        skipped=skipped,
        unlabelled=_without_labels(whole.take(unlabelled)) if len(unlabelled) else None,
    )


def _check_enough(whole: Split, members: Tensor, labels: tuple[str, ...], needed: int) -> None:
    counts = torch.bincount(whole.labels[members], minlength=len(labels)).tolist()
    for label, count in zip(labels, counts, strict=True):
        if count < needed:
            raise DataError(
                f"class {label!r} has {count} readable image{'s' * (count != 1)}, but needs {needed} or more: "
                "one in each split; add images or remove the class"
            )


def _hold_back(whole: Split, members: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Divide `members`, int64 indices, into two parts.

    The second part gets `share` of each class, but at least one image. The choice depends on the ids only.
    """
    is_held = torch.zeros(len(members), dtype=torch.bool)
    for number in whole.labels[members].unique():
        alike = (whole.labels[members] == number).nonzero().flatten()
        by_id = alike[whole.ids[members[alike]].argsort()]
        is_held[by_id[: max(1, round(share * len(alike)))]] = True
    return members[~is_held], members[is_held]


def _without_labels(split: Split) -> Split:
    return replace(split, labels=torch.full_like(split.labels, UNLABELLED))

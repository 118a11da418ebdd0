"""The first lines of a command that trains: what was found, and what is done with it."""

from __future__ import annotations

from collections.abc import Iterator

from .data import Dataset
from .recipe import Recipe

FEW_CLASSES = 10
"""Up to this number of classes, each is named with the number of its images."""


def first_lines(data: Dataset, recipe: Recipe) -> Iterator[str]:
    """Give a line for the data, and one for the recipe."""
    size, student = data.preprocessing.input, recipe.student
    more = "" if data.unlabelled is None else f"{len(data.unlabelled):,} without labels, "
    yield (
        f"data: {len(data.labels):,} classes, {len(data.train):,} images to train on ({_of_classes(data)}), {more}"
        f"{len(data.validation):,} for validation, {len(data.test):,} for the test, {size.width}x{size.height} pixels"
    )
    teachers = ", ".join(f"{name} ({it.model}, {_epochs(it.training.epochs)})" for name, it in recipe.teachers.items())
    yield f"recipe: teachers {teachers}; the student learns for {_epochs(student.training.epochs)}"


def _of_classes(data: Dataset) -> str:
    counts = data.train.counts(len(data.labels)).tolist()
    if len(counts) <= FEW_CLASSES:
        return ", ".join(f"{label} {count:,}" for label, count in zip(data.labels, counts, strict=True))
    return f"{min(counts):,} to {max(counts):,} of a class, the fewest of {data.labels[counts.index(min(counts))]}"


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' * (count != 1)}"

"""The number of images in each split of a run's data: all that has to be known of images to plan for them."""

from __future__ import annotations

from typing import NamedTuple

from .data import Dataset


class Counts(NamedTuple):
    """The number of images in each split.

    Attributes:
        train: labelled images to train on.
        unlabelled: further images to train on, without labels.
        validation, test: images that are held out.
    """

    train: int
    unlabelled: int
    validation: int
    test: int

    @classmethod
    def of(cls, data: Dataset) -> Counts:
        """Return the counts of a dataset."""
        unlabelled = 0 if data.unlabelled is None else len(data.unlabelled)
        return cls(len(data.train), unlabelled, len(data.validation), len(data.test))

    @classmethod
    def holding_out(cls, images: int, share: float) -> Counts:
        """Return the counts of `images` images to train on; that share of their number is held out for each purpose."""
        held = max(1, round(images * share))
        return cls(images, 0, held, held)

    @property
    def students(self) -> int:
        """The number of images that the student is trained on and the logit store covers."""
        return self.train + self.unlabelled

    def grown_to(self, images: int) -> Counts:
        """Return the counts with `images` images in `train`, and the other splits in the same proportion to them."""
        others = (max(1, round(count * images / self.train)) if count else 0 for count in self[1:])
        return Counts._make((images, *others))

    def at_most(self, images: int) -> Counts:
        """Return the counts with no more than `images` images in each split."""
        return Counts._make(min(count, images) for count in self)

"""A dataset: the splits that a run is trained and evaluated on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from .files import Preprocessing
from .samples import Samples
from .split import Split


@dataclass(frozen=True)
class Dataset:
    """The data of a run.

    Attributes:
        train: the images that teachers and students are trained on: in memory, as files, or in shards.
        validation: the images for the accuracy after each epoch and for the temperature, in memory.
        test: the images for the final scores, in memory. Nothing is ever chosen by these scores.
        labels: the class names; sorted, except in named datasets, which have an order of their own.
        preprocessing: how an image becomes the input of the nets.
        skipped: a message for each file that could not be read, with the reason.
        unlabelled: further images to train on, all labelled `UNLABELLED`; kept in the same way as those of `train`.
    """

    train: Samples
    validation: Split
    test: Split
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    skipped: list[str] = field(default_factory=list)
    unlabelled: Samples | None = None

    @property
    def students(self) -> Samples:
        """The images that the student is trained on and the logit store covers: `train`, then `unlabelled`."""
        return self.train.joined(self.unlabelled) if self.unlabelled else self.train

    def hash(self) -> str:
        """Return a hash of the content of all splits, and of the labels."""
        splits: tuple[Samples, ...] = (self.students, self.validation, self.test)
        parts = (*(split.hash() for split in splits), *self.labels)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

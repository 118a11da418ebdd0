"""A dataset: what a run is trained on and evaluated with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from .files import Preprocessing
from .split import Split


@dataclass(frozen=True)
class Dataset:
    """What a run is trained on and judged by.

    Attributes:
        train, validation, test: nothing is ever chosen by the test set. The pictures of the last two are in memory.
        labels: class names, sorted but for named sets.
        preprocessing: how a picture becomes what the nets see.
        skipped: pictures that could not be read, each with its reason.
        unlabelled: more pictures to learn from, all labelled `UNLABELLED`; in memory or files, as those of `train`.
    """

    train: Split
    validation: Split
    test: Split
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    skipped: list[str] = field(default_factory=list)
    unlabelled: Split | None = None

    @property
    def students(self) -> Split:
        """What the student sees, and the store holds: `train`, then `unlabelled`."""
        return self.train + self.unlabelled if self.unlabelled else self.train

    def hash(self) -> str:
        """Names the content of all splits, and the labels."""
        splits = (self.students, self.validation, self.test)
        parts = (*(split.hash() for split in splits), *self.labels)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

"""The images that nets are trained on, as training and the logit store see them: kept here, or streamed from shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor

from ..lanes import ONE_LANE, Lanes
from .feed import WORKERS

if TYPE_CHECKING:
    from .split import Split


@dataclass(frozen=True, eq=False)
class Rows:
    """Some samples, in the order in which they are shown.

    Attributes:
        indices: int64 [B], by which `Samples.feed` knows the images. They lie where the images do, or on the CPU, so
            that nothing waits for a GPU to tell them.
        places: int64 [B], in the view's keyed order. They lie where the ids do, or on the CPU.
        ids: int64 [B].
        labels: int64 [B]; `UNLABELLED` where the class is not known.
    """

    indices: Tensor
    places: Tensor
    ids: Tensor
    labels: Tensor

    @property
    def columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All attributes, in their order."""
        return self.indices, self.places, self.ids, self.labels

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, rows: Tensor | slice) -> Rows:
        """Return some of the samples."""
        return Rows(*(column[rows if isinstance(rows, slice) else rows.to(column.device)] for column in self.columns))

    def split_by(self, size: int) -> list[Rows]:
        """Return the samples in pieces of `size`; the last one may have fewer."""
        return [self.take(slice(start, start + size)) for start in range(0, len(self), size)]


def joined(parts: list[Rows]) -> Rows:
    """Return the samples of several parts, one part after another."""
    if len(parts) == 1:
        return parts[0]
    return Rows(*map(torch.cat, zip(*(part.columns for part in parts), strict=True)))


def spread(length: int, count: int) -> Tensor:
    """Return at most `count` evenly spread indices up to `length`, int64."""
    return torch.linspace(0, length - 1, min(length, count), dtype=torch.float64).round().long()


class Samples(Protocol):
    """N images of one size with labels and ids. Code that trains on them does not need to know where they are kept.

    The order of a view is keyed, and neighbours in it are pairs. A unit of the logit store is a run of its places.
    """

    @property
    def size(self) -> tuple[int, int]:
        """The height and the width of each image, in pixels."""

    @property
    def nbytes(self) -> int:
        """The number of bytes of pixels that are held in memory; 0 for files and shards."""

    @property
    def device(self) -> torch.device:
        """The device of what `rows`, `epoch` and `feed` give, except for the indices."""

    @property
    def is_streamed(self) -> bool:
        """It is true of samples in shards, through which the lanes of a batch walk."""

    @property
    def unit_sizes(self) -> tuple[int, ...] | None:
        """The places of each unit of the logit store; None where a store is free to divide the places."""

    def __len__(self) -> int:
        """Return the number of images."""

    def joined(self, other: Any) -> Self:
        """Return these samples and then those of `other`, which is of the same kind."""

    def to(self, device: torch.device, *, pixels: bool = True) -> Self:
        """Return the samples for `device`; without `pixels`, the images stay in the host's memory."""

    def hash(self) -> str:
        """Return a hash of the images, their labels and their ids."""

    def counts(self, classes: int) -> Tensor:
        """Return the number of labelled images of each class, int64 [classes]."""

    def few(self, count: int) -> Split:
        """Return at most `count` of the samples, evenly spread."""

    def rows(self, seed: int, view: int, places: range) -> Rows:
        """Return the samples at some places of a view: any of them, or the whole unit if units have fixed sizes."""

    def steps(self, batch: int, lanes: Lanes) -> int:
        """Return the number of batches in an epoch."""

    def epoch(
        self, seed: int, view: int, epoch: int, batch: int, lanes: Lanes = ONE_LANE, start: int = 0
    ) -> Iterator[Rows]:
        """Give this process's samples of each batch of an epoch over one view, from batch `start` on.

        The pairs of the view are shuffled with the epoch's key.
        """

    def feed(self, chunks: Iterable[Tensor], *, workers: int = WORKERS) -> Iterator[Tensor]:
        """Give the uint8 pixels [b, height, width, 3] of each chunk of indices, in the order of the chunks.

        Raises:
            DataError: an image can't be read any more or was replaced, or a worker ended early.
        """

"""A split: images, their labels, and ids that never change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..device import free_bytes
from ..lanes import ONE_LANE, Lanes
from ..progress import Progress
from ..units import size
from ..views import order, seed_of
from .feed import WORKERS
from .images import Images
from .samples import Rows, Samples, spread

UNLABELLED = -1
"""The label of an image whose class is not known."""


@dataclass(frozen=True)
class Split:
    """Some labelled images.

    Attributes:
        images: N images, in memory or as files.
        labels: int64 [N]; `UNLABELLED` where the class is not known.
        ids: int64 [N]; a hash of the name of each image, which keys its views.
        names: N names, relative to the data.
    """

    images: Images
    labels: Tensor
    ids: Tensor
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def size(self) -> tuple[int, int]:
        return self.images.size

    @property
    def nbytes(self) -> int:
        return self.images.nbytes

    @property
    def device(self) -> torch.device:
        return self.ids.device

    @property
    def is_streamed(self) -> bool:
        return False

    @property
    def unit_sizes(self) -> None:
        return None

    def joined(self, other: Split) -> Split:
        """Return the samples of both splits, whose images are of the same kind."""
        labels, ids = torch.cat([self.labels, other.labels]), torch.cat([self.ids, other.ids])
        return Split(self.images.joined(other.images), labels, ids, self.names + other.names)

    def take(self, indices: Tensor) -> Split:
        """Return some of the samples, in the order of `indices`, int64."""
        names = [self.names[index] for index in indices.tolist()]
        return Split(self.images.take(indices), self.labels[indices], self.ids[indices], names)

    def to(self, device: torch.device, *, pixels: bool = True) -> Split:
        """Return the split with its tensors on `device`; files, or all images without `pixels`, stay where they are."""
        images = self.images.to(device) if pixels else self.images
        return Split(images, self.labels.to(device), self.ids.to(device), self.names)

    def counts(self, classes: int) -> Tensor:
        return torch.bincount(self.labels[self.labels >= 0], minlength=classes)

    def few(self, count: int) -> Split:
        """Return at most `count` evenly spread samples."""
        if len(self) <= count:
            return self
        return self.take(spread(len(self), count))

    def rows(self, seed: int, view: int, places: range) -> Rows:
        at = torch.arange(places.start, places.stop, device=self.device)
        indices = _order(seed, self.ids, view)[at]
        return Rows(indices.to(self.images.device), at, self.ids[indices], self.labels[indices])

    def steps(self, batch: int, lanes: Lanes = ONE_LANE) -> int:
        return max(1, len(self) // batch)

    def epoch(
        self, seed: int, view: int, epoch: int, batch: int, lanes: Lanes = ONE_LANE, start: int = 0
    ) -> Iterator[Rows]:
        """Give this process's samples of each batch of an epoch; see `Samples.epoch`.

        An incomplete last batch is left out, unless it is the only one.
        """
        laid_out = _order(seed, self.ids, view)
        pairs = torch.arange(len(laid_out) // 2 * 2, device=self.device).unflatten(0, (-1, 2))
        pairs = pairs[order(seed_of(seed, "epoch"), self.ids[laid_out[pairs[:, 0]]], epoch)]
        places = pairs[: self.steps(batch) * (batch // 2)].flatten()
        on_device = laid_out[places]
        indices = on_device.to(self.images.device)  # of all batches: a GPU is waited for once
        for first in range(start * batch, len(places), batch):
            here = slice(first, first + batch)
            at, own, ours = (lanes.own(column[here]) for column in (indices, places, on_device))
            yield Rows(at, own, self.ids[ours], self.labels[ours])

    def feed(self, chunks: Iterable[Tensor], *, workers: int = WORKERS) -> Iterator[Tensor]:
        return self.images.feed(chunks, self.device, workers=workers)

    def in_memory(self, progress: Progress | None = None) -> Split:
        """Return the split with its images in memory.

        Raises:
            DataError: they would take too much memory, or a file can't be read any more or was replaced.
        """
        return replace(self, images=self.images.in_memory(progress))

    def pixels(self) -> Tensor:
        """Return all pixels, uint8 [N, height, width, 3]; nothing is copied where the images are in memory.

        Raises:
            DataError: see `in_memory`.
        """
        return self.images.in_memory().pixels

    def hash(self) -> str:
        """Return a hash of pixels, labels and ids, in their order. It is the same in memory and as files."""
        content = hashlib.sha256(repr((len(self.images), *self.images.size, 3)).encode())
        content.update(b"".join(self.images.digests()))
        for tensor in (self.labels, self.ids):
            content.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
        return content.hexdigest()[:16]


@lru_cache(2)
def _order(seed: int, ids: Tensor, view: int) -> Tensor:
    """Return the order of a view, which all of its batches and units share. `is` tells tensors apart here."""
    return order(seed, ids, view)


AnySamples = TypeVar("AnySamples", bound=Samples)


def to_device(samples: AnySamples, device: torch.device, progress: Progress) -> AnySamples:
    """Return the samples for `device`.

    Images that would take more than half of a GPU's free memory stay in the host's memory, and `progress` is told so;
    `feed` copies them chunk by chunk.
    """
    needed, free = samples.nbytes, free_bytes(device)
    if needed <= free / 2:
        return samples.to(device)
    progress.tell(f"{len(samples):,} images, {size(needed)}, stay in the host's memory: {device} has {size(free)} free")
    return samples.to(device, pixels=False)


def sample_ids(names: list[str]) -> Tensor:
    """Return an id for each name, int64 [N], that depends on the name alone."""
    digests = (hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names)
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)

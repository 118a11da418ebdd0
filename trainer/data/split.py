"""A split: images, their labels, and ids that never change."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..device import free_bytes
from ..progress import Progress
from ..units import size
from .images import Images

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

    def __add__(self, other: Split) -> Split:
        """Return the samples of both splits, whose images are of the same kind."""
        labels, ids = torch.cat([self.labels, other.labels]), torch.cat([self.ids, other.ids])
        return Split(self.images.joined(other.images), labels, ids, self.names + other.names)

    def take(self, indices: Tensor) -> Split:
        """Return some of the samples, in the order of `indices`, int64."""
        names = [self.names[index] for index in indices.tolist()]
        return Split(self.images.take(indices), self.labels[indices], self.ids[indices], names)

    def to(self, device: torch.device) -> Split:
        """Return the split with its tensors on `device`; files stay where they are."""
        return Split(self.images.to(device), self.labels.to(device), self.ids.to(device), self.names)

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


def to_device(split: Split, device: torch.device, progress: Progress) -> Split:
    """Return the split with its tensors on `device`.

    Images that would take more than half of a GPU's free memory stay in the host's memory, and `progress` is told so;
    `Images.feed` copies them chunk by chunk.
    """
    needed, free = split.images.nbytes, free_bytes(device)
    if needed <= free / 2:
        return split.to(device)
    progress.tell(f"{len(split):,} images, {size(needed)}, stay in the host's memory: {device} has {size(free)} free")
    return replace(split, labels=split.labels.to(device), ids=split.ids.to(device))


def sample_ids(names: list[str]) -> Tensor:
    """Return an id for each name, int64 [N], that depends on the name alone."""
    digests = (hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names)
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)

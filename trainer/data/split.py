"""A split: pictures as pixels in memory, their labels, and ids that never change."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Attributes:
    images: uint8 [N, height, width, 3].
    labels: int64 [N].
    ids: int64 [N]; a hash of each picture's name, which keys its views.
    names: N names, relative to the data.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def take(self, indices: Tensor) -> Split:
        """Some of the samples, in the order of `indices`, int64."""
        names = [self.names[index] for index in indices.tolist()]
        return Split(self.images[indices], self.labels[indices], self.ids[indices], names)

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device), self.ids.to(device), self.names)

    def hash(self) -> str:
        """Names the content: pixels, labels and ids, in their order."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels, self.ids):
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
        return digest.hexdigest()[:16]


def sample_ids(names: list[str]) -> Tensor:
    """Stable ids, int64 [N], from names."""
    digests = (hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names)
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)

"""A split: pictures in memory or as files, their labels, and ids that never change."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from .files import Input, Picture, digest, pixels_of

UNLABELLED = -1
"""The label of a picture whose class is not known."""


@dataclass(frozen=True)
class Decoded:
    """Pictures that stay files, decoded anew each time they are wanted.

    Attributes:
        pictures: N files.
        input: how they become pixels.
        digests: of the pixels of each, from when all were read once.
    """

    pictures: list[Picture]
    input: Input
    digests: list[bytes]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, height, width, 3), as that of the pixels in memory."""
        return len(self.pictures), self.input.height, self.input.width, 3

    def __getitem__(self, indices: Tensor) -> Decoded:
        wanted = indices.tolist()
        return Decoded([self.pictures[i] for i in wanted], self.input, [self.digests[i] for i in wanted])

    def __add__(self, other: Decoded) -> Decoded:
        return Decoded(self.pictures + other.pictures, self.input, self.digests + other.digests)

    def pixels(self, indices: Tensor) -> Tensor:
        """uint8 [b, height, width, 3], for int64 [b].

        Raises:
            DataError: a picture can't be read any more.
        """
        return torch.from_numpy(np.stack([pixels_of(self.pictures[i], self.input) for i in indices.tolist()]))


Images = TypeVar("Images", Tensor, Decoded)


@dataclass(frozen=True)
class Split(Generic[Images]):
    """`feed` gives the pixels of either kind of images.

    Attributes:
        images: uint8 [N, height, width, 3], or files that are decoded when they are wanted.
        labels: int64 [N]; `UNLABELLED` where the class is not known.
        ids: int64 [N]; a hash of each picture's name, which keys its views.
        names: N names, relative to the data.
    """

    images: Images
    labels: Tensor
    ids: Tensor
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def __add__(self, other: Split[Images]) -> Split[Images]:
        """The samples of both, whose images are of one kind."""
        if isinstance(self.images, Decoded):
            images = self.images + other.images
        else:
            images = torch.cat([self.images, other.images])
        labels, ids = torch.cat([self.labels, other.labels]), torch.cat([self.ids, other.ids])
        return Split(images, labels, ids, self.names + other.names)

    def take(self, indices: Tensor) -> Split[Images]:
        """Some of the samples, in the order of `indices`, int64."""
        names = [self.names[index] for index in indices.tolist()]
        return Split(self.images[indices], self.labels[indices], self.ids[indices], names)

    def to(self, device: torch.device) -> Split[Images]:
        """With its tensors on `device`; files stay where they are."""
        images = self.images if isinstance(self.images, Decoded) else self.images.to(device)
        return Split(images, self.labels.to(device), self.ids.to(device), self.names)

    def hash(self) -> str:
        """Names the content: pixels, labels and ids, in their order; the same in memory and as files."""
        if isinstance(self.images, Decoded):
            digests = self.images.digests
        else:
            digests = [digest(pixels) for pixels in self.images.cpu().numpy()]
        content = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        content.update(b"".join(digests))
        for tensor in (self.labels, self.ids):
            content.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
        return content.hexdigest()[:16]


def sample_ids(names: list[str]) -> Tensor:
    """Stable ids, int64 [N], from names."""
    digests = (hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names)
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)

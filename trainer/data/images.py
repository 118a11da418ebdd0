"""The images of a split: pixels in memory, or files that are decoded each time they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..progress import Progress, Silent
from .feed import WORKERS, ahead, decoded
from .files import Input, check_memory, check_same, decode_again, digest, pixels_of
from .sources import ImageFile


class Images(Protocol):
    """N images of one size. Code that uses them does not need to know where they are kept."""

    @property
    def size(self) -> tuple[int, int]:
        """The height and the width of each image, in pixels."""

    @property
    def nbytes(self) -> int:
        """The number of bytes of pixels that are held in memory; 0 for files."""

    @property
    def device(self) -> torch.device:
        """The device that holds the pixels; the CPU for files."""

    def __len__(self) -> int:
        """Return the number of images."""

    def take(self, indices: Tensor) -> Self:
        """Return some of the images, in the order of `indices`, int64."""

    def joined(self, other: Self) -> Self:
        """Return these images and then those of `other`, which is of the same kind."""

    def to(self, device: torch.device) -> Self:
        """Return the images with their pixels on `device`; files stay where they are."""

    def feed(self, chunks: Iterable[Tensor], device: torch.device, *, workers: int = WORKERS) -> Iterator[Tensor]:
        """Give the uint8 pixels [b, height, width, 3] of each chunk of indices on `device`, in the order of the chunks.

        The pixels depend neither on `workers` nor on where the images are kept. Nothing is drawn from torch's random
        state.

        Args:
            chunks: int64 [b] each, on any device.
            workers: the number of processes that decode files; with 0, this process decodes them.

        Raises:
            DataError: a file can't be read any more or was replaced, or a worker ended early.
        """

    def digests(self) -> list[bytes]:
        """Return a digest of the pixels of each image."""

    def in_memory(self, progress: Progress | None = None) -> MemoryImages:
        """Return the same images in memory.

        Raises:
            DataError: their pixels would take too much memory, or a file can't be read any more or was replaced.
        """


@dataclass(frozen=True)
class MemoryImages:
    """Images whose pixels are in memory.

    Attributes:
        pixels: uint8 [N, height, width, 3], on any device.
    """

    pixels: Tensor

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.pixels.shape[1:3]
        return height, width

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, indices: Tensor) -> MemoryImages:
        return MemoryImages(self.pixels[indices])

    def joined(self, other: MemoryImages) -> MemoryImages:
        return MemoryImages(torch.cat([self.pixels, other.pixels]))

    def to(self, device: torch.device) -> MemoryImages:
        return MemoryImages(self.pixels.to(device))

    def feed(self, chunks: Iterable[Tensor], device: torch.device, *, workers: int = WORKERS) -> Iterator[Tensor]:
        gathered = (self.pixels[chunk.to(self.pixels.device)] for chunk in chunks)
        if self.pixels.device.type == device.type:
            return gathered
        return ahead((pixels.pin_memory() for pixels in gathered) if device.type == "cuda" else gathered, device)

    def digests(self) -> list[bytes]:
        return [digest(pixels) for pixels in self.pixels.cpu().numpy()]

    def in_memory(self, progress: Progress | None = None) -> MemoryImages:
        return self


@dataclass(frozen=True)
class FileImages:
    """Images that stay files and are decoded each time they are asked for.

    Attributes:
        files: N files.
        input: how the files become pixels.
        known_digests: a digest of the pixels of each file, from the first time that all files were read. A file that
            has other pixels when it is read again is refused.
    """

    files: list[ImageFile]
    input: Input
    known_digests: list[bytes]

    @property
    def size(self) -> tuple[int, int]:
        return self.input.height, self.input.width

    @property
    def nbytes(self) -> int:
        return 0

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def __len__(self) -> int:
        return len(self.files)

    def take(self, indices: Tensor) -> FileImages:
        wanted = indices.tolist()
        return FileImages([self.files[i] for i in wanted], self.input, [self.known_digests[i] for i in wanted])

    def joined(self, other: FileImages) -> FileImages:
        return FileImages(self.files + other.files, self.input, self.known_digests + other.known_digests)

    def to(self, device: torch.device) -> FileImages:
        return self

    def feed(self, chunks: Iterable[Tensor], device: torch.device, *, workers: int = WORKERS) -> Iterator[Tensor]:
        tasks: Iterable[list[int]] = (chunk.tolist() for chunk in chunks)
        return ahead(decoded(self._decode, tasks, workers, pin=device.type == "cuda"), device)

    def digests(self) -> list[bytes]:
        return self.known_digests

    def in_memory(self, progress: Progress | None = None) -> MemoryImages:
        check_memory(len(self), self.input)
        rows = decode_again(self.files, self.known_digests, self.input, progress or Silent())
        return MemoryImages(torch.from_numpy(rows))

    def _decode(self, indices: list[int]) -> Tensor:
        return torch.from_numpy(np.stack([self._again(index) for index in indices]))

    def _again(self, index: int) -> NDArray[np.uint8]:
        pixels = pixels_of(self.files[index], self.input)
        check_same(self.files[index], pixels, self.known_digests[index])
        return pixels

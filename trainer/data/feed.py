"""Pixels, chunk by chunk: out of memory, or from files that other processes decode ahead of whoever consumes them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..device import free_bytes
from ..errors import DataError
from ..progress import Progress, size
from .split import Decoded, Split

WORKERS = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16)


def feed(split: Split, chunks: Sequence[Tensor], device: torch.device, *, workers: int = WORKERS) -> Iterator[Tensor]:
    """The uint8 pixels [b, height, width, 3] on `device` of each chunk of indices (int64 [b], on any device), in order.

    They depend on neither the number of `workers` that decode files (0: this process does it) nor on whether the
    pictures are files, in memory or on the device; and nothing is drawn from torch's random state.

    Raises:
        DataError: a picture can't be read any more, or a worker ended early.
    """
    if isinstance(split.images, Decoded):
        yield from _ahead(_decoded(split.images, chunks, workers, pin=device.type == "cuda"), device)
    elif split.images.device.type == device.type:
        for chunk in chunks:
            yield split.images[chunk.to(split.images.device)]
    else:
        yield from _ahead(_gathered(split.images, chunks, pin=device.type == "cuda"), device)


def to_device(split: Split, device: torch.device, progress: Progress) -> Split:
    """The split with its tensors on `device`; images that would take more than half of a GPU's free memory stay behind,
    which is told, and `feed` copies them chunk by chunk."""
    if isinstance(split.images, Decoded) or split.images.nbytes <= free_bytes(device) / 2:
        return split.to(device)
    progress.tell(
        f"{len(split):,} pictures, {size(split.images.nbytes)}, stay in the host's memory: "
        f"{device} has {size(free_bytes(device))} free"
    )
    return Split(split.images, split.labels.to(device), split.ids.to(device), split.names)


def _gathered(images: Tensor, chunks: Sequence[Tensor], pin: bool) -> Iterator[Tensor]:
    for chunk in chunks:
        pixels = images[chunk.to(images.device)]
        yield pixels.pin_memory() if pin else pixels


class _Chunks(Dataset[Tensor | DataError]):
    """What a worker is asked for, by a chunk's number."""

    def __init__(self, images: Decoded, chunks: Sequence[Tensor]) -> None:
        self.images, self.chunks = images, [chunk.cpu() for chunk in chunks]

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, number: int) -> Tensor | DataError:
        try:
            return self.images.pixels(self.chunks[number])
        except DataError as fault:
            return fault  # raised in a worker, it would arrive as the text of a traceback


def _decoded(images: Decoded, chunks: Sequence[Tensor], workers: int, pin: bool) -> Iterator[Tensor]:
    workers = min(workers, len(chunks))
    loader = DataLoader(
        _Chunks(images, chunks),
        batch_size=None,  # a chunk is a batch already
        num_workers=workers,
        pin_memory=pin,
        multiprocessing_context="fork" if workers else None,  # a million files are not pickled for every worker
        generator=torch.Generator(),  # of its own: the loader draws a seed
    )
    with warnings.catch_warnings():
        # From 3.12 on Python warns of forks beside threads. The workers touch no lock that one of them could hold.
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
        coming = iter(loader)
    while True:
        try:
            pixels = next(coming)
        except StopIteration:
            return
        except (RuntimeError, EOFError) as fault:
            raise DataError("a process that decodes pictures was ended; give it more memory and /dev/shm") from fault
        if isinstance(pixels, DataError):
            raise pixels
        yield pixels


def _ahead(chunks: Iterator[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Each chunk on `device`, where the copy of the next one is under way before it is given out."""
    given = None
    for pixels in chunks:
        copied = pixels.to(device, non_blocking=True)
        if given is not None:
            yield given
        given = copied
    if given is not None:
        yield given

"""Chunks of pixels, prepared ahead of the code that consumes them: decoded by other processes, copied to a device."""

from __future__ import annotations

import gc
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from runtimes.cores import usable_cores

from ..errors import DataError

WORKERS = min(usable_cores(), 16)
"""The default number of processes that decode files."""

Task = TypeVar("Task")


class _Decoded(Dataset[Tensor | DataError], Generic[Task]):
    """The pixels of each task that a worker is given."""

    def __init__(self, decode: Callable[[Task], Tensor]) -> None:
        self.decode = decode

    def __getitem__(self, task: Task | DataError) -> Tensor | DataError:
        if isinstance(task, DataError):
            return task
        try:
            return self.decode(task)
        except DataError as fault:
            return fault  # raised in a worker, it would arrive as the text of a traceback


class _InOrder(Sampler[Task | DataError]):
    """Gives the tasks one after another, each when the workers have room for it.

    The loader would leave threads behind if the next task were an error. So it gets the error as a task.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.tasks = tasks

    def __iter__(self) -> Iterator[Task | DataError]:
        try:
            yield from self.tasks
        except DataError as fault:
            yield fault


def _begin(worker: int) -> None:
    """Prepare a worker that was forked.

    It outlives SIGTERM, which a cluster sends to all processes of a job, because the step is finished first; it ends
    when the loader tells it to, or when the process is gone from which it was forked. And its garbage collector leaves
    alone what that process had: touching all of it would copy all of it.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gc.freeze()


def decoded(decode: Callable[[Task], Tensor], tasks: Iterable[Task], workers: int, *, pin: bool) -> Iterator[Tensor]:
    """Give the pixels that `decode` makes of each task, in the order of the tasks.

    A few tasks for each worker are taken from `tasks` ahead of the pixels that are asked for.

    Args:
        workers: the number of processes that decode ahead; with 0, this process does it.
        pin: whether the pixels lie in page-locked memory, which is copied to a GPU without waiting.

    Raises:
        DataError: from `decode`, or from `tasks`; or a worker ended early.
    """
    if isinstance(tasks, Sized):
        workers = min(workers, len(tasks))
    loader = DataLoader(
        _Decoded(decode),
        sampler=_InOrder(tasks),
        batch_size=None,  # a task is a batch already
        num_workers=workers,
        pin_memory=pin,
        multiprocessing_context="fork" if workers else None,  # a million files are not pickled for every worker
        worker_init_fn=_begin,
        generator=torch.Generator(),  # its own, because the loader draws a seed
    )
    with warnings.catch_warnings():
        # From 3.12 on, Python warns of forks beside threads. The workers take no lock that one of them could hold.
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
        coming = iter(loader)
    try:
        while True:
            try:
                pixels = next(coming)
            except StopIteration:
                return
            except (RuntimeError, EOFError) as fault:
                raise DataError("a process that decodes images was ended; give it more memory and /dev/shm") from fault
            if isinstance(pixels, DataError):
                raise pixels
            yield pixels
    finally:
        del coming  # or the traceback of an error keeps the workers, and each is waited for five seconds in the end


def ahead(chunks: Iterator[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Give each chunk on `device`; the copy of the next one is already under way at that time."""
    given = None
    for pixels in chunks:
        copied = pixels.to(device, non_blocking=True)
        if given is not None:
            yield given
        given = copied
    if given is not None:
        yield given

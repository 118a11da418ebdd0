"""The threads that torch computes with on a CPU: as many as are the fastest when a command starts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from runtimes.cores import Threads, fastest, usable_cores
from sdk.errors import UsageError

from . import parallel

MOST = torch.get_num_threads()
"""Torch's own choice: the cores in this process's affinity, without hyperthreads, or what `OMP_NUM_THREADS` says."""

MEASURED_S = 1.0
"""The least seconds of the measurement. A shorter one could fall into the moment in which another program starts."""


@contextmanager
def computing(threads: int | None, device: torch.device) -> Iterator[Threads]:
    """Let torch compute with this number of threads inside the block; None measures which number is the fastest.

    Nothing is measured for a GPU, beside which the threads of a CPU have little to do.

    Raises:
        UsageError: fewer than one thread.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads={threads}: at least 1, or None for the fastest number")
    most = min(MOST, max(1, usable_cores() // parallel.on_this_machine()))
    with computing_with(threads or most):
        chosen = Threads(threads or most) if threads or device.type != "cpu" else fastest(most, _seconds, MEASURED_S)
        torch.set_num_threads(chosen.number)
        yield chosen


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Let torch compute with this number of threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def _seconds(threads: int) -> float:
    """Return the time of a chain of small operations with that many threads, like those of a training step."""
    torch.set_num_threads(threads)
    x, up, down = torch.ones(1024, 192), torch.full((192, 384), 0.01), torch.full((384, 192), 0.01)
    started = time.perf_counter()
    for _ in range(4):
        x = F.layer_norm(x + F.gelu(x @ up) @ down, x.shape[-1:])
    return time.perf_counter() - started

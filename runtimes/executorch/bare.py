"""ExecuTorch as its quick start calls it: the baseline of every measurement."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from executorch.extension.pybindings import _C as engine

from runtimes.base import Call, one_by_one

from .session import quiet

with quiet(), warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing it warns that it is experimental
    from executorch.runtime import Runtime


def open_bare(file: Path, threads: int, precision: str) -> Call:
    """Return the call of a loaded method, one image at a time, with a thread pool of the given size."""
    with quiet():
        engine._unsafe_reset_threadpool(threads)
        forward = Runtime.get().load_program(file).load_method("forward")
    return one_by_one(lambda pixels: forward.execute([torch.from_numpy(pixels)])[0].numpy())

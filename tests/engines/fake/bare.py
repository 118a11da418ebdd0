"""PyTorch as its documentation calls a saved program: the baseline of every measurement."""

from __future__ import annotations

from pathlib import Path

import torch

from runtimes.base import Call


def open_bare(file: Path, threads: int, precision: str) -> Call:
    """Return the call of the program's module."""
    torch.set_num_threads(threads)
    module = torch.export.load(file).module()
    return lambda pixels: module(torch.from_numpy(pixels)).detach().numpy()

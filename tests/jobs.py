"""Jobs that the tests of the trainer start, on the CPU and silent unless a test says otherwise, and damaged bytes."""

from __future__ import annotations

import torch

from trainer.data import Dataset
from trainer.progress import Progress, Silent
from trainer.run import Job, Run

CPU = torch.device("cpu")


class Told(Silent):
    """A progress that keeps the lines that it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, text: str) -> None:
        self.lines.append(text)


def job_of(run: Run, data: Dataset, progress: Progress | None = None) -> Job:
    """Return the work on a run."""
    return Job(run, data, CPU, progress or Silent())


def with_flipped_bit(content: bytes, bit: int) -> bytes:
    """Return bytes with one bit changed."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)

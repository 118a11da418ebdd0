"""Jobs that the tests of the trainer start, on the CPU and silent unless a test says otherwise, and damaged bytes."""

from __future__ import annotations

import os
import signal
from copy import copy
from pathlib import Path
from typing import Any, Self

import torch
from msgspec.structs import replace

from trainer.data import Dataset
from trainer.progress import Progress, Silent
from trainer.recipe import Recipe, read_recipe
from trainer.run import Job, Run
from trainer.start import RunRequest, source_of

CPU = torch.device("cpu")


class Told(Silent):
    """A progress that keeps the lines that it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, text: str) -> None:
        self.lines.append(text)


class Interrupt(Silent):
    """Stop the work after a number of steps of one stage, like Ctrl-C."""

    def __init__(self, stage: str, steps: int) -> None:
        self.wanted, self.left, self.here = stage, steps, False

    def beside(self) -> Self:
        return copy(self)

    def begin(self, stage: str, steps: int) -> None:
        self.here = stage == self.wanted

    def step(self, steps: int = 1, note: str = "") -> None:
        self.left -= steps * self.here
        if self.left <= 0:
            raise KeyboardInterrupt


class Terminate(Interrupt):
    """Send SIGTERM to this process after a number of steps of one stage, as a cluster does."""

    def step(self, steps: int = 1, note: str = "") -> None:
        self.left -= steps * self.here
        if self.here and self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def job_of(run: Run, data: Dataset, progress: Progress | None = None) -> Job:
    """Return the work on a run."""
    return Job(run, data, CPU, progress or Silent())


def request_of(data: Path, out: Path, recipe: Recipe, seed: int = 0) -> RunRequest:
    """Return the request for a run on the CPU."""
    return RunRequest(out=out, source=source_of(str(data)), recipe=recipe, seed=seed, device="cpu", threads=1)


def student_of(recipe: Path, batch: int = 32, **changes: Any) -> Recipe:
    """Return a recipe with a student that drops blocks, and has no batch norms."""
    made = read_recipe(recipe)
    training = replace(made.student.training, batch=batch, epochs=3, precision="fp32")
    return replace(made, student=replace(made.student, stem="patch", drop_path=0.3, training=training, **changes))


def with_flipped_bit(content: bytes, bit: int) -> bytes:
    """Return bytes with one bit changed."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)

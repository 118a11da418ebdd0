"""What a store costs and when it has paid for itself: reckoned before it is filled, from a timed sample."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import NamedTuple

import torch

from ..data import Split
from ..models import Teacher
from ..units import duration, size
from ..views import ViewSpec, render
from .fill import fill_batch


class Cost(NamedTuple):
    """Of answering for `views` views of `samples` pictures, by the same teachers on the same device.

    Attributes:
        bytes: of the store.
        fill_seconds: to fill it.
        online_seconds: what the teachers would take in the training of one student, were nothing stored.
    """

    bytes: int
    fill_seconds: float
    online_seconds: float

    @property
    def students(self) -> int:
        """How many students the store has to teach until it has cost less than teachers that answer each time."""
        return max(1, math.ceil(self.fill_seconds / self.online_seconds))

    def __str__(self) -> str:
        return (
            f"{size(self.bytes)}, filled in about {duration(self.fill_seconds)}; teachers in the loop would take "
            f"{duration(self.online_seconds)} a student, so it pays from student {self.students} on"
        )


def cost(*, views: int, view_bytes: int, samples: int, epochs: int, pictures_per_second: float) -> Cost:
    """The cost at a rate of the teachers together."""
    per_view = samples / pictures_per_second
    return Cost(views * view_bytes, views * per_view, epochs * per_view)


@torch.inference_mode()
def teachers_rate(teachers: Mapping[str, Teacher], split: Split, spec: ViewSpec, batches: int = 3) -> float:
    """Pictures a second that are rendered and answered by all teachers, the best of a few batches after a first one."""
    batch = fill_batch(*split.images.size, split.ids.device)
    indices = torch.arange(min(batch, len(split)), device=split.ids.device)
    (images,) = split.images.feed([indices], split.ids.device)
    seconds = []
    for view in range(1 + batches):
        started = time.perf_counter()
        pixels = render(images, split.ids[indices], seed=0, view=view, spec=spec).pixels
        for teacher in teachers.values():
            teacher.answer(pixels).sum().item()  # which waits for the device
        seconds.append(time.perf_counter() - started)
    return len(indices) / min(seconds[1:])

"""The cost of a store, estimated from a timed sample before the store is filled, and when the store pays for itself."""

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
    """The cost of a store, next to that of the same teachers on the same device without a store.

    Attributes:
        bytes: the size of the store.
        fill_seconds: the time to fill it.
        online_seconds: the time that the teachers would take while one student is trained, if nothing were stored.
    """

    bytes: int
    fill_seconds: float
    online_seconds: float

    @property
    def students(self) -> int:
        """The number of students from which on the store costs less time than teachers that answer in every epoch."""
        return max(1, math.ceil(self.fill_seconds / self.online_seconds))

    def __str__(self) -> str:
        return (
            f"{size(self.bytes)}, filled in about {duration(self.fill_seconds)}; teachers in the loop would take "
            f"{duration(self.online_seconds)} a student, so it pays from student {self.students} on"
        )


def cost(*, views: int, view_bytes: int, samples: int, epochs: int, images_per_second: float) -> Cost:
    """Return the cost of `views` stored views of `samples` images.

    Args:
        view_bytes: the size of the answers for one view.
        epochs: how long a student is trained.
        images_per_second: the rate of all teachers together; see `teachers_rate`.
    """
    per_view = samples / images_per_second
    return Cost(views * view_bytes, views * per_view, epochs * per_view)


@torch.inference_mode()
def teachers_rate(teachers: Mapping[str, Teacher], split: Split, spec: ViewSpec, batches: int = 3) -> float:
    """Return how many images a second are rendered and answered by all teachers.

    A first batch warms up; the fastest of the next `batches` counts.
    """
    batch = fill_batch(*split.images.size, split.ids.device)
    indices = torch.arange(min(batch, len(split)), device=split.ids.device)
    (images,) = split.images.feed([indices], split.ids.device)
    seconds = []
    for view in range(1 + batches):
        started = time.perf_counter()
        pixels = render(images, split.ids[indices], seed=0, view=view, spec=spec).pixels
        for teacher in teachers.values():
            teacher.answer(pixels).sum().item()  # `item` waits for the device
        seconds.append(time.perf_counter() - started)
    return len(indices) / min(seconds[1:])

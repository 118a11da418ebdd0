"""The cost of a store, and the number of students from which on it pays for itself."""

from __future__ import annotations

import math
from typing import NamedTuple

from ..units import duration, size


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
        return math.floor(self.fill_seconds / self.online_seconds + 1e-9) + 1

    def shared(self, fillers: int, trainers: int) -> Cost:
        """Return the cost when so many processes fill the store, and so many train a student with online teachers."""
        return Cost(self.bytes, self.fill_seconds / fillers, self.online_seconds / trainers)

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
        images_per_second: the rate at which all teachers together answer.
    """
    per_view = samples / images_per_second
    return Cost(views * view_bytes, views * per_view, epochs * per_view)

"""Times, sizes and parts of a work as people write them. It imports nothing heavy."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import NamedTuple, TypeVar

from sdk.errors import UsageError

Item = TypeVar("Item")

MOST_IMAGES = 10**15
"""More images than any dataset has."""


@dataclass(frozen=True)
class Part:
    """One of `count` parts of a work that several machines share, numbered from 1."""

    number: int
    count: int

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the items of this part. The parts take the items in turn, so they differ by one at most."""
        return items[self.number - 1 :: self.count]

    def parts(self, count: int) -> list[Part]:
        """Return the parts of this part."""
        return [Part(self.number + number * self.count, self.count * count) for number in range(count)]


ALL = Part(1, 1)
"""The whole work."""


def part_of(text: str) -> Part:
    """Return the part that is written as `I/N`, such as `3/8`.

    Raises:
        UsageError: it is not written so, or I is not between 1 and N.
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
    if found is None:
        raise UsageError(f"--part: {text!r} is not a part; write it as I/N, such as 1/8")
    part = Part(int(found[1]), int(found[2]))
    if not 1 <= part.number <= part.count:
        raise UsageError(f"--part: there is no part {part.number} of {part.count}; they are numbered from 1 on")
    return part


class Deadline(NamedTuple):
    """The moment at which work has to be finished, in seconds of `time.perf_counter`."""

    end: float

    @classmethod
    def after(cls, text: str) -> Deadline:
        """Return the moment that is `text` (`30m`, see `seconds_of`) from now on.

        Raises:
            ValueError: `text` is not a time.
        """
        return cls(time.perf_counter() + seconds_of(text))

    def seconds_left(self) -> float:
        """Return the seconds until then; less than 0 when it has passed."""
        return self.end - time.perf_counter()


def deadline_of(within: str | Deadline | None) -> Deadline | None:
    """Return the moment at which the given time ends, counted from now on; None without a limit.

    A command calls it before it imports torch, which takes seconds of that time.

    Raises:
        UsageError: `within` is not a time.
    """
    try:
        return Deadline.after(within) if isinstance(within, str) else within
    except ValueError as fault:
        raise UsageError(f"--within: {fault}") from fault


def seconds_of(text: str) -> float:
    """Return the seconds of a time as people write it: `90s`, `30m`, `1h30m`, `1.5 h`.

    Raises:
        ValueError: `text` is not such a time, or not above 0.
    """
    number = r"(\d+(?:\.\d+)?)\s*"
    found = re.fullmatch(rf"(?:{number}h)?\s*(?:{number}m(?:in)?)?\s*(?:{number}s)?", text.strip())
    hours, minutes, seconds = (float(part or 0) for part in (found.groups() if found else (0, 0, 0)))
    total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise ValueError(f"{text!r} is not a time; write it as 90s, 30m or 1h30m")
    return total


def size(count: float) -> str:
    """Return a number of bytes as people write it: `792 bytes`, `1.5 GB`."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


def duration(seconds: float) -> str:
    """Return a number of seconds as people write it: `4.2 s`, `12 min`, `3.1 h`, `12,000 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.2g} min"
    return f"{seconds / 3600:,.{0 if seconds >= 360_000 else 1}f} h"


def count_of(text: str) -> int:
    """Return a number of images as people write it: `50000`, `1e9`, `1.28e6`.

    Raises:
        ValueError: it is not written so, not whole, below 2, or too large for any dataset.
    """
    try:
        number = Decimal(text.strip())
        if 2 <= number <= MOST_IMAGES and number == number.to_integral_value():
            return int(number)
    except InvalidOperation:
        pass
    raise ValueError(f"{text!r} is not a number of images; write a whole number of 2 or more, such as 50000 or 1e9")

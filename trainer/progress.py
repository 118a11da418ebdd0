"""How long work tells what it does: whoever starts it may progress. And how sizes and times are said."""

from __future__ import annotations

import re
from typing import Protocol


class Progress(Protocol):
    """Follows one stage at a time. The command line draws bars from it."""

    def begin(self, stage: str, steps: int) -> None:
        """`stage` starts and takes `steps` steps."""

    def step(self, steps: int = 1, note: str = "") -> None:
        """Steps are done; `note` replaces the last one unless it is empty."""

    def end(self, summary: str = "") -> None:
        """The stage is done."""

    def tell(self, text: str) -> None:
        """Something worth a line of its own."""


class Silent:
    """Nobody looks."""

    def begin(self, stage: str, steps: int) -> None: ...

    def step(self, steps: int = 1, note: str = "") -> None: ...

    def end(self, summary: str = "") -> None: ...

    def tell(self, text: str) -> None: ...


def seconds_of(text: str) -> float:
    """Return the seconds of a time as people say it: `90s`, `30m`, `1h30m`, `1.5 h`.

    Raises:
        ValueError: it is no such time, or not above 0.
    """
    number = r"(\d+(?:\.\d+)?)\s*"
    found = re.fullmatch(rf"(?:{number}h)?\s*(?:{number}m(?:in)?)?\s*(?:{number}s)?", text.strip())
    hours, minutes, seconds = (float(part or 0) for part in (found.groups() if found else (0, 0, 0)))
    total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise ValueError(f"{text!r} is no time; say 90s, 30m or 1h30m")
    return total


def size(count: float) -> str:
    """Bytes as people say them: `792 bytes`, `1.5 GB`."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """Seconds as people say them: `4.2 s`, `12 min`, `3.1 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.2g} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""The interface by which training reports its progress to the command line or to another caller."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Follow the work, one stage at a time. The command line draws bars from these calls."""

    def begin(self, stage: str, steps: int) -> None:
        """Handle the start of `stage`, which takes `steps` steps."""

    def step(self, steps: int = 1, note: str = "") -> None:
        """Handle that many finished steps; `note` replaces the last note unless it is empty."""

    def end(self, summary: str = "") -> None:
        """Handle the end of the stage."""

    def tell(self, text: str) -> None:
        """Handle a message that deserves a line of its own."""


class Silent:
    """A `Progress` that ignores every call."""

    def begin(self, stage: str, steps: int) -> None: ...

    def step(self, steps: int = 1, note: str = "") -> None: ...

    def end(self, summary: str = "") -> None: ...

    def tell(self, text: str) -> None: ...

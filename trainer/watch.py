"""How long work tells what it does: whoever starts it may watch."""

from __future__ import annotations

from typing import Protocol


class Watch(Protocol):
    """Follows one stage at a time. The command line draws bars from it."""

    def begin(self, stage: str, steps: int) -> None:
        """`stage` starts and takes `steps` steps."""

    def step(self, steps: int = 1, note: str = "") -> None:
        """Steps are done; `note` replaces the last one unless it is empty."""

    def end(self, summary: str = "") -> None:
        """The stage is done."""

    def tell(self, text: str) -> None:
        """Something worth a line of its own."""


class Unwatched:
    """Nobody looks."""

    def begin(self, stage: str, steps: int) -> None: ...

    def step(self, steps: int = 1, note: str = "") -> None: ...

    def end(self, summary: str = "") -> None: ...

    def tell(self, text: str) -> None: ...

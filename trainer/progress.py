"""The interface by which training reports its progress to the command line or to another caller."""

from __future__ import annotations

import time
from typing import Protocol, Self


class Progress(Protocol):
    """Follow the work, one stage at a time. The command line draws bars from these calls."""

    def beside(self) -> Progress:
        """Return a progress for stages that go on at the same time as those of this one, in the same thread."""

    def begin(self, stage: str, steps: int) -> None:
        """Handle the start of `stage`, which takes `steps` steps."""

    def step(self, steps: int = 1, note: str = "") -> None:
        """Handle that many finished steps; `note` replaces the last note unless it is empty.

        With 0 steps, the note sums up what has passed since the last such note: an epoch. It deserves a line of its own
        where no bar is drawn.
        """

    def end(self, summary: str = "") -> None:
        """Handle the end of the stage."""

    def tell(self, text: str) -> None:
        """Handle a message that deserves a line of its own."""


class Silent:
    """A `Progress` that ignores every call."""

    def beside(self) -> Self:
        return self

    def begin(self, stage: str, steps: int) -> None: ...

    def step(self, steps: int = 1, note: str = "") -> None: ...

    def end(self, summary: str = "") -> None: ...

    def tell(self, text: str) -> None: ...


class EpochNotes:
    """The notes of a training: the epoch, the images in a second, and what the last epoch came to.

    Args:
        epochs: the number of epochs.
        device: the name of the device.
    """

    def __init__(self, epochs: int, device: str) -> None:
        self._epochs, self._device, self._result = epochs, device, ""

    def begin(self, epoch: int) -> None:
        """Start the clock of an epoch, counted from 0."""
        self._epoch, self._images, self._started = epoch + 1, 0, time.perf_counter()

    def step(self, images: int) -> str:
        """Return the note after that many more images."""
        self._images += images
        rate = self._images / max(1e-9, time.perf_counter() - self._started)
        return f"epoch {self._epoch}/{self._epochs}, {rate:,.0f} images/s{self._result}, {self._device}"

    def end(self, loss: float, accuracy: float) -> str:
        """Return the note that sums up the epoch, from its mean loss and the accuracy on the validation images."""
        self._result = f", loss {loss:.3f}, validation {accuracy:.1%}"
        return self.step(0)

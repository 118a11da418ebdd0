"""The wish of the system that a process ends: SIGTERM, as a cluster sends it before it takes a machine back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from . import parallel
from .errors import Stopped


@contextmanager
def finishing() -> Iterator[Callable[[], bool]]:
    """Let the work inside the block finish its step when SIGTERM comes, instead of ending at once.

    Give a function that tells whether SIGTERM has come, to this process or to another one of the run. Only the main
    thread of a process can handle signals; in another one, SIGTERM ends the process as before.
    """
    has_come = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal has_come
        has_come = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: parallel.total(int(has_come)) > 0
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
    if has_come:  # after the last step, when nobody asked any more
        signal.raise_signal(signal.SIGTERM)


def stopped(stage: str) -> Stopped:
    """Return the error that ends a stage which was asked to stop."""
    return Stopped(f"{stage}: stopped by SIGTERM; what was done is kept, and the same command continues")

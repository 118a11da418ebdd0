"""A budget of memory that threads share: who needs much waits until others have finished."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class MemoryBudget:
    """A number of bytes for all threads of a process. Nobody is overtaken, so a large request is served in its turn."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._begin()
        if hasattr(os, "register_at_fork"):  # not on Windows
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Start with nothing in use. The threads that held something do not exist in a forked process."""
        self._used = 0
        self._waiting: deque[object] = deque()
        self._changed = Condition()

    @contextmanager
    def held(self, amount: int) -> Iterator[None]:
        """Hold `amount` bytes inside the block, and wait for them first. More than the total is held alone."""
        amount, changed = min(amount, self._total), self._changed
        with changed:
            self._wait(amount)
            self._used += amount
        try:
            yield
        finally:
            if changed is self._changed:  # else this is a fork that happened inside the block
                with changed:
                    self._used -= amount
                    changed.notify_all()

    def _wait(self, amount: int) -> None:
        ticket = object()
        self._waiting.append(ticket)
        try:
            self._changed.wait_for(lambda: self._waiting[0] is ticket and self._used + amount <= self._total)
        finally:
            self._waiting.remove(ticket)
            self._changed.notify_all()

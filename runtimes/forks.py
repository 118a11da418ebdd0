"""Forks of the process: they wait until no other thread is inside of native code that holds locks.

A forked process has only the thread that forked. A lock that another thread held stays held there for ever.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE_S = 60.0
"""The longest time that a fork waits: rather a child that may hang than a process that certainly does."""

_changed = threading.Condition()
_inside: list[int] = []
"""The thread of each block that no fork may interrupt."""


@contextmanager
def no_fork() -> Iterator[None]:
    """Let other threads fork the process only before or after the block."""
    with _changed:
        _inside.append(threading.get_ident())
    try:
        yield
    finally:
        with _changed:
            _inside.remove(threading.get_ident())
            _changed.notify_all()


def _before() -> None:
    _changed.acquire()
    _changed.wait_for(lambda: set(_inside) <= {threading.get_ident()}, PATIENCE_S)


def _after_in_parent() -> None:
    _changed.release()  # the present one: this process may itself have been forked


def _after_in_child() -> None:
    global _changed
    _inside[:] = [thread for thread in _inside if thread == threading.get_ident()]
    _changed = threading.Condition()  # the old one has waiting threads, which are gone


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)

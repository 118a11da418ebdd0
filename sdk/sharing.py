"""A session that several threads share: one of them may close it, and a forked process gets one of its own."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from runtimes.base import Session

from .errors import UsageError

_ALIVE: WeakSet[SharedSession] = WeakSet()


class SharedSession:
    """A session that is closed when the last running call has its answer.

    After a fork, the threads of an engine are missing in the child, so that its session there would wait for them for
    ever, even when it is freed. The child leaves that session alone, and opens another one when it needs it.

    Args:
        session: the session that computes.
        reopen: a function that opens the same model again; None for a session that is used after a fork as it is.
    """

    def __init__(self, session: Session, reopen: Callable[[], Session] | None) -> None:
        self._session: Session | None = session
        self._reopen = reopen
        self._running, self._closed = 0, False
        self._lock = threading.RLock()  # a signal may close it in the thread that holds the lock
        _ALIVE.add(self)

    def run(self, pixels: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Return the probabilities; see `runtimes.base.Session`.

        Raises:
            UsageError: it was closed.
            BundleError, EngineError: the engine failed, or the model can't be opened again after a fork.
        """
        with self._lock:
            self._running += 1  # from here on, nobody frees the session
        try:
            return self._opened().run(pixels)
        finally:
            with self._lock:
                self._running -= 1
                self._free()

    def close(self) -> None:
        """Refuse later calls at once, and free the engine when the running ones are done."""
        with self._lock:
            self._closed = True
            self._free()

    def check_open(self) -> None:
        """Raise `UsageError` if it was closed."""
        if self._closed:
            raise UsageError("this classifier is closed; make a new one")

    def _opened(self) -> Session:
        self.check_open()
        session = self._session
        if session is not None:
            return session
        with self._lock:
            if self._session is None:
                assert self._reopen is not None
                self._session = self._reopen()
            return self._session

    def _free(self) -> None:
        if self._closed and not self._running and self._session is not None:
            session, self._session = self._session, None
            session.close()

    def _leave_to_parent(self) -> None:
        self._lock, self._running = threading.RLock(), 0  # other threads, which are gone, may have held the old one
        if self._reopen is not None and self._session is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))  # never freed, not even when Python ends
            self._session = None


def _after_fork_in_child() -> None:
    for shared in list(_ALIVE):
        shared._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

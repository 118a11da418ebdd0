"""The end of a command by SIGTERM: it is one line, and an exit code that asks for another start.

Only the main thread of a process can handle signals; in another one, SIGTERM ends the process at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from sdk.errors import LibkdError
from trainer.errors import Stopped

LATER_S = 0.2
"""The time after which SIGTERM is heard again if it came while a module was imported."""


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM interrupt the work inside the block as Ctrl-C does. A training finishes its step first.

    Raises:
        Stopped: SIGTERM came.
    """
    has_come = has_ended = False

    def again() -> None:
        if not has_ended:
            os.kill(os.getpid(), signal.SIGTERM)

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal has_come
        if has_come:  # a second one would interrupt the end
            return
        if _is_importing(frame):
            later = threading.Timer(LATER_S, again)
            later.daemon = True
            later.start()
            return
        has_come = True
        raise KeyboardInterrupt

    try:
        with _on_sigterm(interrupt):
            yield
    except (Exception, KeyboardInterrupt) as end:  # some libraries make another exception of an interruption
        if not has_come or isinstance(end, LibkdError):
            raise
        if isinstance(fault := end.__context__, LibkdError):  # on its way when SIGTERM came
            raise fault from None
        raise Stopped("stopped by SIGTERM; what was finished is kept, and the same command continues") from None
    finally:
        has_ended = True


@contextmanager
def deaf_to_sigterm() -> Iterator[None]:
    """Ignore SIGTERM inside the block, where an error is told; torchrun may send it at just that moment."""
    with _on_sigterm(signal.SIG_IGN):
        yield


def _is_importing(frame: FrameType | None) -> bool:
    """Return whether a module is being imported. Some libraries abort the process later if that is interrupted."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


@contextmanager
def _on_sigterm(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)

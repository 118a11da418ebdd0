"""The one `openvino.Core` of a process, which is never freed.

A core's CPU plugin gives the thread that loads it another stack for signals, and frees that stack together with the
core. If another thread frees the core, the first one is left with a stack that is gone, and the next signal, maybe
Ctrl-C, ends the process without a word: Python handles all signals on that stack.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import openvino

from runtimes.errors import EngineError

_core: Any = None
_user: int | None = None
"""The process that uses OpenVINO."""
_lock = threading.Lock()


def core(place: str) -> Any:
    """Return the core of this process.

    Raises:
        EngineError: OpenVINO was used before this process was forked. It would wait for threads that are absent here.
    """
    global _core, _user
    if _user not in (None, os.getpid()):
        raise EngineError(
            f"{place}: OpenVINO was used before this process was forked, and can't be used in it; "
            "start processes by 'spawn', or open classifiers only after the fork"
        )
    with _lock:
        if _core is None:
            _core, _user = openvino.Core(), os.getpid()
        return _core

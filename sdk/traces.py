"""Folders that libraries make on the machine of a user without being asked, and how they go away again."""

from __future__ import annotations

import atexit
import os
from contextlib import suppress

_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def remove_unused_compiler_cache() -> None:
    """Have the folder that torch makes for its compiler's cache removed when the process ends, if nothing is in it.

    Torch makes it in the folder for temporary files as soon as its compiler is imported, used or not. A folder that
    the environment names stays.
    """
    if _CACHE not in os.environ:
        atexit.register(_remove_if_empty)


def _remove_if_empty() -> None:
    if _CACHE in os.environ:  # torch sets it to the folder that it made
        with suppress(OSError):
            os.rmdir(os.environ[_CACHE])  # noqa: PTH106

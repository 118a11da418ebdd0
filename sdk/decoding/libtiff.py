"""The errors of libtiff. It prints them to stderr, and after some of them it goes on, with pixels that are wrong."""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

from PIL import _imaging

_thread = threading.local()


def _note(module: bytes, text: bytes, arguments: int) -> None:
    """Keep the first error of this thread. The arguments belong into the text, and only C can read them."""
    if getattr(_thread, "error", None) is None:
        _thread.error = text or module or b"error"


_handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)(_note)


@contextmanager
def errors_raised() -> Iterator[None]:
    """Raise `ValueError` at the end of the block if libtiff reported an error in it, in this thread."""
    _thread.error = None
    yield
    if _thread.error is not None:
        raise ValueError(re.sub(r"%\w+", "?", _thread.error.decode("ascii", "replace")))


@cache
def listen() -> None:
    """Keep the errors of libtiff, instead of having them printed to stderr by this process."""
    with suppress(OSError, AttributeError):  # it may be linked in where its functions have no names
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(_handler)

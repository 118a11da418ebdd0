"""The memory of tensors on a CPU, which every step of a training allocates and frees again."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""The numbers of two settings of glibc's `mallopt(3)`."""

KEPT, USUAL = (2**31 - 1, 2**30), (2**26, 2**25)
"""Two values of these settings, in bytes: what training uses, and the largest to which glibc raises them by itself."""


def use_large_pages() -> None:
    """Let torch ask the system for large pages for large tensors, unless the user has chosen.

    Torch reads this setting when it is loaded: after it was imported, it has no effect.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Let the process keep the memory of freed tensors inside the block, for the next tensors of their size.

    By default, glibc returns each block of more than 32 MiB to the system when it is freed, and the system clears its
    pages again, one by one, when the next step needs them. Other C libraries are left alone, and so are settings of the
    user's (`MALLOC_MMAP_THRESHOLD_` and the like).
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        yield
        return
    libc = ctypes.CDLL(None)
    _set(libc, KEPT)
    try:
        yield
    finally:
        _set(libc, USUAL)
        libc.malloc_trim(0)


def _set(libc: ctypes.CDLL, values: tuple[int, int]) -> None:
    for setting, value in zip((TRIM_THRESHOLD, MMAP_THRESHOLD), values, strict=True):
        libc.mallopt(setting, value)

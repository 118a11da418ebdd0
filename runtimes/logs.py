"""The caller's logging, kept as it is while a library is imported or works."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unchanged_logging() -> Iterator[None]:
    """Hide messages below errors inside the block, and leave the root logger as it was.

    Vulkan's partitioner sets the root logger's level when it is imported, and logs through it. The first such message
    would give it a handler too, and an app would log what it never asked for.
    """
    root = logging.getLogger()
    level, handlers, disabled = root.level, root.handlers[:], root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
        logging.disable(disabled)

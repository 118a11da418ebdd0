"""The backends that a `.pte` delegates to: a module for each, with a function `preparation`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Preparation(NamedTuple):
    """The way in which a program is prepared and partitioned.

    Attributes:
        partitioner: the backend's own.
        halved: whether the module itself is put into 16 bits; if not, the backend computes in 16 bits if it should.
        rewrites: rewrites of operators (`runtimes.rewrites`); None leaves the program to the backend as it is.
        passes: passes over the program before it is partitioned.
    """

    partitioner: Any
    halved: bool
    rewrites: Mapping[Any, Callable[..., Any]] | None
    passes: Any = None

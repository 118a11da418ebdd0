"""Every error that this package raises on purpose.

LibkdError                  one line: what is wrong, where, and the mend
├── ImageError              a picture that can't be read
├── BundleError             a bundle that is damaged, foreign or from a newer version
├── UsageError              an argument that can't be meant
├── ExportError             a model that can't be lowered as asked
│   └── ProofError          the lowered model does not answer like the trained one
└── EngineError             the engine failed at something that should work
    └── EngineMissing       the engine is not installed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from runtimes.base import EngineFailed, EngineNotInstalled, ForeignFile, LoweringRefused


class LibkdError(Exception):
    """Root of the family. `exit_code` is what the command line returns: 2 where the caller can mend it, else 1."""

    exit_code = 2


class ImageError(LibkdError):
    """A picture could not be turned into pixels."""


class BundleError(LibkdError):
    """A bundle is damaged, incomplete, foreign, or written by a newer version."""


class UsageError(LibkdError):
    """An argument that can't be meant."""


class ExportError(LibkdError):
    """The model can't be lowered as asked."""


class ProofError(ExportError):
    """The lowered model does not answer like the trained one."""

    exit_code = 1


class EngineError(LibkdError):
    """The engine failed at something that should work."""

    exit_code = 1


class EngineMissing(EngineError):
    """The engine, or what it needs, is not installed."""

    exit_code = 2


@contextmanager
def engine_faults(where: str) -> Iterator[None]:
    """Re-raise what `runtimes` raises inside the block as a member of this family, with `where` in front."""
    try:
        yield
    except EngineNotInstalled as fault:
        raise EngineMissing(str(fault)) from fault
    except ForeignFile as fault:
        raise BundleError(f"{where}: {fault}; copy or export the bundle again") from fault
    except LoweringRefused as fault:
        raise ExportError(f"{where}: {fault}") from fault
    except EngineFailed as fault:
        raise EngineError(f"{where}: {fault}") from fault


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the closest known one, or a few of them."""
    known = list(known)
    if close := difflib.get_close_matches(word, known, n=1):
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(known[:10])}{', ...' if len(known) > 10 else ''}"

"""Every error that this package raises on purpose.

LibkdError                  one line: what is wrong, where, and how to fix it
├── ImageError              an image can't be read
├── UsageError              an argument makes no sense
├── FileError               a file can't be written
├── BundleError             a bundle is damaged, foreign, or written by a newer version
│   └── SignatureError      nobody who is trusted signed the bundle
├── ExportError             a model can't be lowered as asked
│   └── ProofError          the lowered model does not answer like the trained one
└── EngineError             the engine failed at something that should work
    └── EngineMissing       the engine is not installed
"""

from __future__ import annotations

from collections.abc import Iterable

from runtimes.errors import BundleError, EngineError, EngineMissing, ExportError, LibkdError, import_failure

__all__ = [
    "BundleError",
    "EngineError",
    "EngineMissing",
    "ExportError",
    "FileError",
    "ImageError",
    "LibkdError",
    "ProofError",
    "SignatureError",
    "UsageError",
    "did_you_mean",
    "import_failure",
]


class ImageError(LibkdError):
    """An image could not be turned into pixels."""

    code = "image-unreadable"


class UsageError(LibkdError):
    """An argument makes no sense, or does not go together with another one."""

    code = "usage"


class FileError(LibkdError):
    """A file or a folder can't be written."""

    code = "file-unwritable"


class SignatureError(BundleError):
    """A bundle is not signed, or not by a key that is trusted."""

    code = "signature-refused"


class ProofError(ExportError):
    """The lowered model does not answer like the trained one."""

    code = "proof-failed"
    exit_code = 1


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown word: the closest known one, or a few of them."""
    import difflib  # only here, because most programs never make such an error

    known = list(known)
    if close := difflib.get_close_matches(word, known, n=1):
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(known[:10])}{', ...' if len(known) > 10 else ''}"

"""The root of the one error tree, and the errors that the engines raise.

LibkdError              one line: what is wrong, where, and how to fix it
├── BundleError         a model file or a bundle is damaged, foreign, or written by a newer version
├── ExportError         the engine can't take the model, or not at this precision
└── EngineError         the engine failed at something that should work
    └── EngineMissing   the engine, or a library that it needs, is not installed

`sdk.errors` and `trainer.errors` add to this tree. An error is raised once and passes through every layer unchanged.
"""

from __future__ import annotations

import re
import sys
from typing import ClassVar


class LibkdError(Exception):
    """An error that this project raises on purpose.

    Attributes:
        code: a stable name for programs and for the documentation (docs/errors.md).
        exit_code: what the command line returns: 2 if the user can fix the cause, else 1.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 2

    def __str__(self) -> str:
        """Return the message, which is one line even if the name of a file in it has line ends."""
        return re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", super().__str__())


class BundleError(LibkdError):
    """A model file or a bundle is damaged, incomplete, foreign, or written by a newer version."""

    code = "bundle-invalid"


class ExportError(LibkdError):
    """The model can't be lowered as asked."""

    code = "export-refused"


class EngineError(LibkdError):
    """The engine failed at something that should work."""

    code = "engine-failed"
    exit_code = 1


class EngineMissing(EngineError):
    """The engine, or a library that the work needs, is not installed; the message holds the pip command."""

    code = "engine-missing"
    exit_code = 2


_SIGNS_OF_NO_MEMORY = ("failed to map segment", "cannot allocate", "can't allocate", "bad_alloc")


def import_failure(user: str, fault: Exception, extra: str) -> EngineError:
    """Return the failed import of a library as one line: how to install it, or why it can't be loaded.

    Args:
        user: what needs the library, such as "training".
        extra: the extra of this project that installs it, such as "[train]"; "" for none.
    """
    name = fault.name if isinstance(fault, ModuleNotFoundError) else None
    if name and "." not in name and name not in sys.stdlib_module_names:
        return EngineMissing(f"{user}: {name} is not installed; pip install 'libkd-sdk{extra}'")
    reason = str(fault).strip().partition("\n")[0] or type(fault).__name__
    if isinstance(fault, MemoryError) or any(sign in reason.lower() for sign in _SIGNS_OF_NO_MEMORY):
        return EngineError(f"{user}: too little memory to load a library ({reason}); allow this process more")
    return EngineError(
        f"{user}: a library is installed, but can't be loaded ({reason}); "
        f"pip install --upgrade --force-reinstall 'libkd-sdk{extra}'"
    )

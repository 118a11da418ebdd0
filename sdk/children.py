"""The start of child processes that run a part of this project."""

from __future__ import annotations

import sys

from .errors import EngineError

PROGRAM = "import sys; sys.path[:] = {path}; from {module} import main; main()"


def can_start() -> bool:
    """Return whether this process knows a Python for its children; a frozen program has none."""
    return not getattr(sys, "frozen", False) and bool(sys.executable)


def python(module: str) -> list[str]:
    """Return the command of a Python that runs `main` of a module and imports from the same folders as this process.

    With `python -m`, it would look into the current folder first, where anything may lie.

    Raises:
        EngineError: this process is a frozen program.
    """
    if not can_start():
        raise EngineError("this needs Python for a child process, which a frozen program lacks")
    return [sys.executable, "-c", PROGRAM.format(path=ascii([*map(str, sys.path)]), module=module)]

"""Images that are no files of their own, as binary files that `Classifier` reads."""

from __future__ import annotations

import io
import sys

from sdk.errors import ImageError

STANDARD_INPUT = "standard input"


class StandardInput(io.BytesIO):
    """Standard input under a name that people know."""

    name = STANDARD_INPUT

    def read(self, size: int | None = -1) -> bytes:
        return sys.stdin.buffer.read(-1 if size is None else size)


class InMemory(io.BytesIO):
    """The content of a file, under the name that errors use."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


class Unreadable(io.BytesIO):
    """A file whose reading raises an error that is known already."""

    def __init__(self, error: ImageError) -> None:
        super().__init__()
        self._error = error

    def read(self, size: int | None = -1) -> bytes:
        raise self._error

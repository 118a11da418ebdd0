"""A stricter reader of tars than that of Python, which takes most damaged headers for the end of the tar."""

from __future__ import annotations

import tarfile
from typing import Self


class StrictTarInfo(tarfile.TarInfo):
    """A member with a whole header: `tarfile.open(..., tarinfo=StrictTarInfo)`.

    Any other header, or none where the tar was cut off, raises `tarfile.ReadError`.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as fault:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # a block of zeros is the end
            raise tarfile.ReadError("no end" if not buf else str(fault)) from fault

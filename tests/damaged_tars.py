"""Tars that are cut off or damaged."""

from __future__ import annotations

import io
import tarfile

from folders import PNG


def damaged(kind: str) -> bytes:
    """Return a tar of five images of which three can be read."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number in range(5):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(PNG)
            archive.addfile(member, io.BytesIO(PNG))
    content = bytearray(file.getvalue())
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        fourth = archive.getmember("3.png")
    match kind:
        case "cut in an image":
            del content[fourth.offset_data + 100 :]
        case "cut in a header":
            del content[fourth.offset + 100 :]
        case "cut between images":
            del content[fourth.offset :]
        case "damaged header":
            content[fourth.offset + 2] ^= 1
        case "hole of zeros":
            content[fourth.offset : fourth.offset + 1024] = bytes(1024)
        case "size below zero":
            header = tarfile.TarInfo("3.png")
            header.size = -4096
            content[fourth.offset :] = header.tobuf(tarfile.GNU_FORMAT)
    return bytes(content)

"""The images in a tar, read in order and with little memory. A tar that is cut off or damaged never looks whole."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from sdk.errors import ImageError
from sdk.folders import START_BYTES, SUFFIXES, is_image, is_junk
from sdk.images import MAX_BYTES, ImageSource
from sdk.tars import StrictTarInfo

from ..image_files import InMemory, Unreadable

_AT_ONCE = 2**20


def images_in_tar(path: Path, name: str) -> Iterator[tuple[str, ImageSource]]:
    """Give each image in a tar with its name, `name/MEMBER`. Other members and junk are left out.

    Args:
        name: what people call the tar.

    Raises:
        ImageError: the tar can't be read, is cut off or damaged. It names the member, and all images before it were
            given.
    """
    place = "at its beginning"
    try:
        with _opened(path) as archive:
            for member in _members(archive):
                member_name = PurePosixPath(member.name).as_posix()
                place = f"in {member_name}"
                image = None if is_junk(member_name) else _image(archive, member, f"{name}/{member_name}")
                place = f"after {member_name}"
                if image is not None:
                    yield f"{name}/{member_name}", image
            _check_rest(archive)
    except Exception as fault:  # the readers of archives raise almost any exception for damaged ones
        reason = getattr(fault, "strerror", None) or next(iter(str(fault).splitlines()), type(fault).__name__)
        raise ImageError(f"{name}: damaged or cut off {place} ({reason}); copy or create this tar again") from fault


def _opened(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, tarinfo=StrictTarInfo, encoding="utf-8")  # the same names in every locale
    except tarfile.ReadError as fault:  # of several lines, one for each kind of compression
        raise tarfile.ReadError("no header of a tar") from fault


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    last = -1
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
        if member.offset <= last:
            raise tarfile.ReadError("a size below zero")  # which leads back, again and again
        last = member.offset
        yield member


def _image(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> ImageSource | None:
    """Return the image that a member holds; None if it is no image."""
    if member.issym() or member.islnk():
        if posixpath.splitext(member.name)[1].lower() not in SUFFIXES:
            return None
        how = "tar --dereference --hard-dereference"
        return Unreadable(ImageError(f"{name}: a link, which is not followed in a tar; pack the file itself ({how})"))
    if not member.isfile():
        return None
    file = cast(IO[bytes], archive.extractfile(member))  # never None for a regular file
    start = b"" if posixpath.splitext(member.name)[1].lower() in SUFFIXES else file.read(START_BYTES)
    if not is_image(member.name, lambda: start):
        return None
    if member.size > MAX_BYTES:
        return Unreadable(ImageError(f"{name}: larger than {MAX_BYTES // 2**20} MB; scale it down"))
    return InMemory(start + file.read(), name)


def _check_rest(archive: tarfile.TarFile) -> None:
    """Raise an error if a tar goes on after its end: a hole in a copy looks like the end, and so do tars in a row."""
    file = cast(IO[bytes], archive.fileobj)
    while rest := file.read(_AT_ONCE):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("it goes on after its end")

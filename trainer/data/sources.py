"""Image files in folders and archives, in one form. Nothing is unpacked to disk."""

from __future__ import annotations

import io
import os
import posixpath
import stat
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, NamedTuple, cast

from sdk.errors import ImageError
from sdk.files import read_regular
from sdk.folders import START_BYTES, SUFFIXES, described, images_in, is_image, is_junk
from sdk.images import MAX_BYTES

from ..errors import DataError

if TYPE_CHECKING:
    from typing_extensions import Buffer  # of collections.abc, from Python 3.12 on

_MAX_PATH = 4096
"""The length of the longest path that a link in a zip may hold."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file.

    Attributes:
        name: its path relative to the data, with `/`.
        load: a function that returns its bytes, or raises `ImageError` or `OSError`.
    """

    name: str
    load: Callable[[], bytes]


class Found(NamedTuple):
    """The files in a folder or an archive, without junk.

    Attributes:
        files: the image files, sorted by name.
        others: the names of the files that are no images, sorted. Empty folders are there too, with `/` at the end, and
            of an archive all folders.
    """

    files: list[ImageFile]
    others: list[str]


def find(source: Path) -> Found:
    """Return the files in a folder, a zip or a tar.

    Raises:
        DataError: `source` does not exist, can't be read, is not an archive, or holds no image.
    """
    if source.is_dir():
        found = _in_folder(source)
    elif not source.is_file():
        raise DataError(f"{source}: no such folder or archive; check the path")
    else:
        found = _in_archive(source)
    if not found.files:
        others = described(found.others)
        raise DataError(
            f"{source}: no images in it{f' ({others})' if others else ''}; "
            "expected CLASS/NAME.jpg, or train/CLASS/NAME.jpg and test/..."
        )
    return Found(sorted(found.files, key=lambda file: file.name), sorted(found.others))


def _in_folder(folder: Path) -> Found:
    try:
        images, others = images_in(folder)
    except OSError as fault:
        raise DataError(f"{fault.filename}: {fault.strerror}; repair or remove this folder") from fault
    return Found([ImageFile(name, partial(_read_file, folder / name, name)) for name in images], others)


def _read_file(path: Path, name: str) -> bytes:
    content = read_regular(path, MAX_BYTES)
    return _too_large(name) if content is None else content


def _too_large(name: str) -> bytes:
    raise ImageError(f"{name}: larger than {MAX_BYTES // 2**20} MB; scale it down")


def _in_archive(path: Path) -> Found:
    try:
        if zipfile.is_zipfile(path):
            return _in_zip(path)
        if tarfile.is_tarfile(path):
            return _in_tar(path)
    except DataError:
        raise
    except Exception as fault:  # the readers of archives raise almost any exception for damaged ones
        raise DataError(f"{path}: a damaged archive ({fault}); download or create it again") from fault
    raise DataError(f"{path}: neither a folder nor a complete zip or tar; give one of these")


class _OwnPosition(io.RawIOBase):
    """A file that keeps its read position in this object.

    The system's own position of an open file would be shared by all processes that are forked from this one.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor, self._position = os.open(path, os.O_RDONLY), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        size = os.fstat(self._descriptor).st_size
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: size}[whence]
        return self._position

    def readinto(self, buffer: Buffer) -> int:
        count = os.preadv(self._descriptor, [buffer], self._position)
        self._position += count
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


class _Zip(zipfile.ZipFile):
    """A zip that can be given to another process, which opens it again."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.BufferedReader(_OwnPosition(path)))
        self._path = path

    def __reduce__(self) -> tuple[type[_Zip], tuple[Path]]:
        return _Zip, (self._path,)


def _in_zip(path: Path) -> Found:
    archive = _Zip(path)
    found, links = Found([], []), dict[str, str]()
    for member in archive.infolist():
        name = PurePosixPath(member.filename).as_posix()
        if is_junk(name):
            continue
        if member.is_dir():
            found.others.append(f"{name}/")
        elif stat.S_ISLNK(member.external_attr >> 16) and member.file_size <= _MAX_PATH:
            links[name] = _from(name, os.fsdecode(archive.read(member)))
        elif is_image(name, partial(_start_of_member, archive, member)):
            found.files.append(ImageFile(name, partial(_read_member, archive, member)))
        else:
            found.others.append(name)
    return _with_links(path, found, links)


def _start_of_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(member) as file:
            return file.read(START_BYTES)
    except Exception:  # as in `_read_member`; the file then counts as no image
        return b""


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.file_size > MAX_BYTES:
        return _too_large(member.filename)
    try:
        return archive.read(member)
    except Exception as fault:  # each kind of compression raises others, and a password is missing as RuntimeError
        raise ImageError(f"{member.filename}: {fault}; create the archive again") from fault


def _in_tar(path: Path) -> Found:
    found, links = Found([], []), dict[str, str]()
    with tarfile.open(path) as archive:
        is_packed = not isinstance(archive.fileobj, io.BufferedReader)
        for member in archive:
            archive.members.clear()  # type: ignore[attr-defined]  # or it keeps a kilobyte for each
            name = PurePosixPath(member.name).as_posix()
            if is_junk(name) or name == ".":
                continue
            if member.isdir():
                found.others.append(f"{name}/")
            elif member.issym():
                links[name] = _from(name, member.linkname)
            elif member.islnk():
                links[name] = PurePosixPath(member.linkname).as_posix()
            elif (load := _load_member(path, archive, member, is_packed)) is not None:
                found.files.append(ImageFile(name, load))
            else:
                found.others.append(name)
    return _with_links(path, found, links)


def _load_member(
    path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, is_packed: bool
) -> Callable[[], bytes] | None:
    """Return a function that returns the bytes of a member; None if it is no image."""
    if not member.isfile():
        return None
    file = cast(IO[bytes], archive.extractfile(member))  # never None for a regular file
    first = file.read(START_BYTES)  # they lie right behind the header, which was just read
    if not is_image(member.name, partial(bytes, first)):
        return None
    if member.size > MAX_BYTES:
        return partial(_too_large, member.name)
    if is_packed or member.issparse():  # the rest can only be read in order, so it is read now
        return partial(bytes, first + file.read())
    return partial(_read_part, path, member.offset_data, member.size)


def _read_part(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def _from(link: str, target: str) -> str:
    """Return the name of the file that a symbolic link in an archive points to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(link), target))


def _with_links(path: Path, found: Found, links: dict[str, str]) -> Found:
    """Add the links between files of an archive.

    Raises:
        DataError: a link leads to a folder, or out of the archive, and its name is not that of an image.
    """
    by_name = {file.name: file for file in found.files}
    others = set(found.others)
    for name, target in links.items():
        passed = {name}
        while target in links and target not in passed:
            passed.add(target)
            target = links[target]
        if target in by_name:
            found.files.append(ImageFile(name, by_name[target].load))
        elif target in others:
            found.others.append(name)
        elif PurePosixPath(name).suffix.lower() in SUFFIXES:
            found.files.append(ImageFile(name, partial(_lost, name)))
        else:
            raise DataError(
                f"{path}: {name} is a link to a folder, or out of the archive; pack the files that it leads to "
                "(tar --dereference, or zip without -y)"
            )
    return found


def _lost(name: str) -> bytes:
    raise ImageError(f"{name}: a link to no file in the archive; pack the file itself")

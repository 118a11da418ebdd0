"""Whole files or none: what is written is forced to the disk and renamed into place, what is read has a limit."""

from __future__ import annotations

import codecs
import ctypes
import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Self

from .errors import FileError

_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
BY_DESCRIPTOR = os.open in os.supports_dir_fd and hasattr(os, "O_DIRECTORY")
"""Whether the system can hold on to a folder while its name changes. Windows can't."""
MAX_TEXT_BYTES = 16 * 2**20
_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2


@contextmanager
def disk_failures(path: Path) -> Iterator[None]:
    """Turn an `OSError` of writing inside the block into a `FileError` that names `path` and what to do."""
    try:
        yield
    except OSError as fault:
        raise FileError(f"{fault.filename or path}: can't be written ({fault.strerror}); {_mend(fault)}") from fault


def disk_failure(fault: OSError, place: str) -> FileError:
    """Return an `OSError` that nobody expected as a `FileError` that names its file, or `place` if it has none."""
    name = os.fsdecode(fault.filename) if isinstance(fault.filename, str | bytes) else place
    return FileError(f"{name}: can't be read or written ({fault.strerror}); {_mend(fault)}")


def _mend(fault: OSError) -> str:
    if fault.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space and run again; what was finished stays"
    if fault.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "choose a folder that you may write to, or change its permissions"
    if fault.errno in (errno.EMFILE, errno.ENFILE):
        return "allow this process more open files (ulimit -n)"
    return "check the disk and the path"


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader sees the old content or the new one and never a part. Parents are created.

    Args:
        content: bytes, or text that is stored as UTF-8.

    Raises:
        FileError: the disk is full, or the folder can't be written.
    """
    with unfinished(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
        finish(file, path)


@contextmanager
def unfinished(path: Path) -> Iterator[IO[bytes]]:
    """Yield a new hidden file beside `path`, which is deleted after the block unless `finish` gave it a name.

    Parents are created. An `OSError` inside the block counts as one of writing.

    Raises:
        FileError: the disk is full, or the folder can't be written.
    """
    # Not the process's number: on machines that share a folder, two may have the same one.
    partial = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    with disk_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                yield file
        except OSError as fault:
            fault.filename = str(path)  # not the hidden one
            raise
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def finish(file: IO[bytes], path: Path) -> None:
    """Force a file of `unfinished` to the disk, and rename it to `path`, which lies in the same folder."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    Path(file.name).replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk: a rename lasts only then. File systems that can't do this are left."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as fault:
        if fault.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Force the files below a folder, and their names, to the disk."""
    for entry in folder.iterdir():
        if entry.is_dir():
            sync_tree(entry)
            continue
        with entry.open("r+b") as content:
            os.fsync(content.fileno())
    sync_folder(folder)


def read_regular(path: str | os.PathLike[str], limit: int, *, folder: int | None = None) -> bytes | None:
    """Return the content of a regular file, or None if it has more than `limit` bytes.

    The file is opened once, so a name that is replaced meanwhile changes nothing; a pipe or a device is not read.

    Args:
        folder: the descriptor of an open folder that `path` is relative to; a link is refused then.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it can't be read, or is no regular file (`errno.EINVAL`), or a link (`errno.ELOOP`).
    """
    with _regular(path, folder) as (descriptor, size):
        if size > limit:
            return None
        parts, left, at_once = [], limit + 1, max(size, 4095) + 1
        while left and (part := os.read(descriptor, min(left, at_once))):
            parts.append(part)
            left -= len(part)
    return b"".join(parts) if left else None


def read_start(path: str | os.PathLike[str], count: int) -> bytes:
    """Return the first bytes of a regular file, at most `count`.

    Raises:
        OSError: see `read_regular`.
    """
    with _regular(path, None) as (descriptor, _):
        return os.read(descriptor, count)


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a UTF-8 file of at most 16 MB, without the mark that some editors put before it.

    Raises:
        OSError: see `read_regular`.
        ValueError: it is larger, or is not UTF-8.
    """
    content = read_regular(path, MAX_TEXT_BYTES)
    if content is None:
        raise ValueError(f"more than {MAX_TEXT_BYTES // 2**20} MB")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content:
        raise ValueError("UTF-16, or no text; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = content.count(b"\n", 0, fault.start) + 1
        raise ValueError(f"line {line} is not UTF-8; save it as UTF-8") from fault


@contextmanager
def _regular(path: str | os.PathLike[str], folder: int | None) -> Iterator[tuple[int, int]]:
    """Open a regular file, and give its descriptor and its size. See `read_regular`."""
    flags = _READ if folder is None else _READ | os.O_NOFOLLOW
    descriptor = os.open(path, flags, dir_fd=folder)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
        yield descriptor, about.st_size
    finally:
        os.close(descriptor)


class OpenFolder:
    """A folder that stays the same one while it is read, even if another takes its name. It is a context manager.

    Raises:
        OSError: there is no such folder, or it can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._about = path, path.stat()
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if BY_DESCRIPTOR else None
        if self._descriptor is not None:
            self._about = os.fstat(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def names(self) -> set[str]:
        """Return the names of everything in it."""
        return set(os.listdir(self.path if self._descriptor is None else self._descriptor))  # noqa: PTH208

    def read(self, name: str, limit: int) -> bytes | None:
        """Return the content of a file in it, or None if it has more than `limit` bytes; see `read_regular`."""
        if self._descriptor is None:
            return read_regular(self.path / name, limit)
        return read_regular(name, limit, folder=self._descriptor)

    def was_replaced(self) -> bool:
        """Return whether its path now stands for another folder, or for none."""
        try:
            return not os.path.samestat(self._about, self.path.stat())
        except OSError:
            return True

    def lock(self) -> bool | None:
        """Lock it for this process until it is closed. Return False if another process has, None without locks."""
        return None if self._descriptor is None else _lock(self._descriptor)


def sha256(content: bytes | memoryview) -> str:
    """Return the SHA-256 of some bytes in hexadecimal."""
    import hashlib  # only here, because it loads OpenSSL

    return hashlib.sha256(content).hexdigest()


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders or files in a single step, so that each name always stands for one of the two.

    Returns:
        False, with nothing changed, where the system or the file system can't do this.

    Raises:
        OSError: a path is missing, or may not be renamed.
    """
    if os.name != "posix":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        failed = libc.renamex_np(*paths, _RENAME_SWAP)
    elif hasattr(libc, "renameat2"):
        failed = libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)
    else:
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


@contextmanager
def held(path: Path, *, shared: bool = False, wait: bool = False) -> Iterator[bool]:
    """Hold the lock `path`, an empty file, inside the block; it is free again when the process ends, however it ends.

    Yields False if somebody else holds it, also in this process. Where a file system has no locks, nobody is kept out.
    The holder of a lock that is not shared may remove the file.

    Args:
        shared: hold it together with others who share it.
        wait: wait until it is free.

    Raises:
        FileError: the file can't be created.
    """
    with disk_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, mine = _locked(path, shared, wait)
    _held.add(descriptor)
    try:
        yield mine
    finally:
        if descriptor in _held:
            _held.remove(descriptor)
            os.close(descriptor)


def _locked(path: Path, shared: bool, wait: bool) -> tuple[int, bool]:
    """Open and lock a file. If its last holder has removed it meanwhile, take the file that is there now."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        mine = _lock(descriptor, shared=shared, wait=wait)
        with suppress(FileNotFoundError):
            if not mine or os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor, mine is not False
        os.close(descriptor)


_held: set[int] = set()
"""The descriptors of the locks of this process."""


def _leave_to_parent() -> None:
    """Close the locks in a forked child. Otherwise it would keep them when its parent dies."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _lock(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool | None:
    """Return whether the lock is ours now; None where the file system has no locks."""
    try:
        import fcntl
    except ImportError:  # on Windows
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except OSError as fault:
        return False if fault.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True

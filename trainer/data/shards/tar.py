"""One shard: a tar that is fetched if it is elsewhere, compared with its digest, and read by position."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

from sdk.errors import ImageError
from sdk.folders import SUFFIXES
from sdk.images import MAX_BYTES
from sdk.tars import StrictTarInfo

from ...errors import DataError
from ..sources import ImageFile

_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
"""A key and a suffix, as webdataset divides the name of a member: at the first dot of its last part."""

_META = re.compile(r"__[^/]*__($|/)")
"""The names under which webdataset keeps facts on a shard."""

_ENDED = re.compile(r": exit (\d+) \(read\) ")
"""The end of webdataset's error when curl or another command fails; all its arguments stand before it."""

_BLOCK, _AT_ONCE = 512, 2**20
_LABEL, _MAX_LABEL = "cls", 500
_FIRST = 16


class Sample(NamedTuple):
    """A sample of a shard.

    Attributes:
        name: its name. A dot in it is written as `%2E` in the tar, and `%` as `%25`.
        label: the text that tells its class, as it is in the tar; None without one.
        offset, size: where the bytes of its image lie in the tar. The size is 0 without an image.
    """

    name: str
    label: bytes | None
    offset: int
    size: int


class ImageInTar(NamedTuple):
    """The image of a sample, which any process on this machine can read.

    Attributes:
        tar: the path of the tar.
        name: the name of the sample.
        offset, size: where its bytes lie.
    """

    tar: str
    name: str
    offset: int
    size: int

    def content(self, descriptor: int) -> bytes:
        """Return the bytes, read through an open descriptor of the tar.

        Raises:
            ImageError, OSError: the tar was cut off, or can't be read any more.
        """
        content = os.pread(descriptor, self.size, self.offset)
        if len(content) < self.size:
            raise ImageError(f"{self.name}: {self.tar} was cut off since this command began; put it back")
        return content


@contextmanager
def descriptors(images: Iterable[ImageInTar]) -> Iterator[dict[str, int]]:
    """Give an open descriptor of each tar in which some images lie, by its path.

    Raises:
        DataError: a tar is gone.
    """
    found: dict[str, int] = {}
    try:
        for tar in {image.tar for image in images}:
            with _readable(tar):
                found[tar] = os.open(tar, os.O_RDONLY)
        yield found
    finally:
        for descriptor in found.values():
            os.close(descriptor)


class LocalTar:
    """A tar on this machine. A copy that was fetched is removed when nobody needs it any more.

    Attributes:
        url: where it came from.
        path: where it is.
        bytes: its size.
        sha256: the digest of its content, in hexadecimal.
    """

    def __init__(self, url: str, path: Path, size: int, sha256: str, *, is_copy: bool) -> None:
        self.url, self.path, self.bytes, self.sha256 = url, path, size, sha256
        if is_copy:
            weakref.finalize(self, _remove, path, os.getpid())

    def image(self, sample: Sample) -> ImageInTar:
        """Return the image of a sample, as another process can read it while this tar is kept."""
        return ImageInTar(str(self.path), sample.name, sample.offset, sample.size)

    def file(self, sample: Sample) -> ImageFile:
        """Return the image of a sample as a file, which keeps this tar."""
        return ImageFile(sample.name, partial(LocalTar._load, self, sample))

    def _load(self, sample: Sample) -> bytes:
        image = self.image(sample)
        with self.path.open("rb") as file:
            return image.content(file.fileno())

    def samples(self) -> list[Sample]:
        """Return all samples, in the order of the tar.

        Raises:
            DataError: the tar is damaged, cut off, compressed, or holds something else.
        """
        with _readable(self.url), self.path.open("rb") as file:
            return list(_samples(self.url, file, _members(file)))


def local_path(url: str) -> Path | None:
    """Return the path of a tar on this machine; None for a URL or a command that has to be fetched."""
    parts = urlparse(url)
    if parts.scheme in ("", "file"):
        return Path(url2pathname(parts.path) if parts.scheme else url)
    return None


def holds_samples(source: str) -> bool:
    """Return whether a source is a tar in webdataset's layout on this machine: one of its first members is a class."""
    path = local_path(source)
    if path is None or path.suffix.lower() != ".tar" or not path.is_file():
        return False
    with suppress(DataError), _readable(source), path.open("rb") as file:
        return any(member.name.endswith(f".{_LABEL}") for member in islice(_members(file), _FIRST))
    return False


def opened(url: str) -> LocalTar:
    """Return a tar after its whole content was read once. webdataset opens what is not on this machine.

    Raises:
        DataError: it can't be read or fetched.
    """
    with _readable(url):
        if (path := local_path(url)) is not None:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                return LocalTar(url, path, os.fstat(file.fileno()).st_size, digest, is_copy=False)
        return _fetched(url)


def _fetched(url: str) -> LocalTar:
    from webdataset.gopen import gopen, gopen_schemes

    if urlparse(url).scheme not in gopen_schemes:
        raise ValueError("webdataset opens no such URL; give a command that writes the shard: 'pipe:COMMAND'")
    digest = hashlib.sha256()
    descriptor, name = tempfile.mkstemp(prefix="libkd-sdk-", suffix=".tar")
    try:
        with open(descriptor, "wb") as copy, gopen(url, "rb") as stream:  # noqa: PTH123 (a descriptor)
            while block := stream.read(_AT_ONCE):
                digest.update(block)
                copy.write(block)
            size = copy.tell()
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return LocalTar(url, Path(name), size, digest.hexdigest(), is_copy=True)


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # and not in a worker that was forked
        path.unlink(missing_ok=True)


@contextmanager
def _readable(url: str) -> Iterator[None]:
    """Turn everything that goes wrong with a tar into one error that names it."""
    try:
        yield
    except DataError:
        raise
    except Exception as fault:  # webdataset and the readers of tars raise almost any exception
        reason = next(iter(str(getattr(fault, "strerror", None) or fault).splitlines()), type(fault).__name__)
        if ended := _ENDED.search(reason):
            reason = f"the command that fetches it ended with exit code {ended[1]}"
        if isinstance(fault, FileNotFoundError) and local_path(url) is None:
            reason = f"{fault.filename} is not installed here"
        raise DataError(f"{url}: a shard that can't be read ({reason}); copy or pack it again") from fault


class _Member(NamedTuple):
    name: str
    offset: int
    size: int


def _members(file: IO[bytes]) -> Iterator[_Member]:
    """Give the regular files of a tar.

    The headers of an ordinary tar are read here, seven times as fast as by `tarfile`, which reads all others.

    Raises:
        ValueError: the tar ends too early, or is none.
    """
    end, at = os.fstat(file.fileno()).st_size, 0
    while (header := os.pread(file.fileno(), _BLOCK, at)) and any(header):
        if header[257:262] != b"ustar" or header[156:157] not in b"0\0" or header[124] & 0x80:
            yield from _members_of_any(file, at)
            return
        size = int(header[124:136].rstrip(b" \0"), 8)
        name, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
        if header[262]:  # GNU's form has no prefix
            prefix = b""
        if int(header[148:156].rstrip(b" \0"), 8) != sum(header) - sum(header[148:156]) + 8 * 32:
            raise ValueError(f"a damaged header at byte {at}")
        if at + _BLOCK + size > end:
            raise ValueError(f"cut off at byte {end}")
        whole = b"/".join(filter(None, (prefix, name)))
        yield _Member(whole.decode("utf-8", "surrogateescape"), at + _BLOCK, size)
        at += _BLOCK + -(-size // _BLOCK) * _BLOCK
    if not header:
        raise ValueError(f"cut off at byte {end}")


def _members_of_any(file: IO[bytes], start: int) -> Iterator[_Member]:
    file.seek(start)
    with tarfile.open(fileobj=file, mode="r:", tarinfo=StrictTarInfo, encoding="utf-8") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            if member.isfile() and not member.issparse():
                yield _Member(member.name, member.offset_data, member.size)


def _samples(url: str, file: IO[bytes], members: Iterator[_Member]) -> Iterator[Sample]:
    """Give the samples of a tar, whose members follow each other."""
    sample: Sample | None = None
    key = ""
    for member in members:
        found = _NAME.fullmatch(member.name.removeprefix("./"))
        if found is None or _META.match(member.name):
            continue
        suffix = found[2].lower()
        if sample is None or found[1] != key:
            if sample is not None:
                yield sample
            key = found[1]
            sample = Sample(unquote(key, errors="surrogateescape"), None, 0, 0)
        if f".{suffix}" in SUFFIXES:
            if sample.size:
                raise DataError(f"{url}: sample {key} has two images; a shard to train on has one in each")
            if member.size > MAX_BYTES:
                raise DataError(f"{url}: {member.name}: larger than {MAX_BYTES // 2**20} MB; scale it down")
            sample = sample._replace(offset=member.offset, size=member.size)
        elif suffix == _LABEL:
            if member.size > _MAX_LABEL:
                raise DataError(f"{url}: {member.name}: too long for the name or the number of a class; pack it again")
            sample = sample._replace(label=os.pread(file.fileno(), member.size, member.offset).strip())
    if sample is not None:
        yield sample

"""The reading of a bundle's folder: every file once, and only what fits its hash. No engine is needed."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from runtimes.base import ModelFiles
from runtimes.engines import ENGINES, check_magic

from ..errors import BundleError
from ..files import OpenFolder, sha256
from .keys import PublicKey
from .manifest import FORMAT, MANIFEST, FileEntry, Manifest
from .signature import MAX_SIGNATURE_BYTES, SIGNATURE, Signed, check_signature

MAX_MANIFEST_BYTES = 16 * 2**20


@contextmanager
def opened_folder(folder: Path) -> Iterator[OpenFolder]:
    """Open a bundle's folder. An `OSError` of reading it becomes a `BundleError`."""
    try:
        with OpenFolder(folder) as opened:
            yield opened
    except (FileNotFoundError, NotADirectoryError) as fault:
        raise BundleError(f"{folder}: not a bundle ({fault.strerror}); give the folder that export wrote") from fault
    except (OSError, ValueError) as fault:
        raise BundleError(f"{folder}: can't be read ({getattr(fault, 'strerror', None) or fault})") from fault


def read_bundle(
    folder: OpenFolder, trusted: Sequence[PublicKey] | None
) -> tuple[Manifest, dict[str, bytes], Signed | None]:
    """Return the manifest, the content of every file, and who signed, after all checks that need no engine."""
    manifest, text = read_manifest(folder)
    required = ENGINES[manifest.target].files
    for name in required:
        if name not in manifest.files:
            raise BundleError(f"{folder.path}: {MANIFEST} does not list {name}; export again")
    for name in manifest.files:
        _check_name(folder.path, name)
    if strangers := sorted(folder.names() - {MANIFEST, SIGNATURE, *manifest.files}):
        raise BundleError(f"{folder.path}: holds {strangers[0]!r}, which {MANIFEST} does not list; remove it")
    signed = check_signature(folder.path, text, _signature(folder), trusted)
    contents = {name: read_file(folder, name, entry) for name, entry in manifest.files.items()}
    check_magic(manifest.target, ModelFiles(str(folder.path), contents))
    return manifest, {MANIFEST: text, **contents}, signed


def _signature(folder: OpenFolder) -> bytes | None:
    """Return the content of `bundle.sig`, or None if there is none."""
    try:
        content = folder.read(SIGNATURE, MAX_SIGNATURE_BYTES)
    except FileNotFoundError:
        return None
    if content is None:
        raise BundleError(f"{folder.path}: {SIGNATURE} is larger than a signature; remove it, or sign again")
    return content


def read_manifest(folder: OpenFolder) -> tuple[Manifest, bytes]:
    """Return the manifest, and the bytes of its file."""
    file = folder.path / MANIFEST
    try:
        text = folder.read(MANIFEST, MAX_MANIFEST_BYTES)
    except FileNotFoundError as fault:
        raise BundleError(
            f"{folder.path}: not a bundle (it has no {MANIFEST}); give the folder that export wrote"
        ) from fault
    if text is None:
        raise BundleError(f"{file}: larger than {MAX_MANIFEST_BYTES // 2**20} MB; this is not a manifest")
    try:
        format = msgspec.json.decode(text, type=_Format).format
        if format != FORMAT and format.startswith("libkd-bundle/"):
            raise BundleError(f"{file}: written in format {format}, this version reads {FORMAT}; upgrade libkd-sdk")
        return msgspec.json.decode(text, type=Manifest), text
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise BundleError(f"{file}: not understood ({fault}); copy or export the bundle again") from fault


class _Format(msgspec.Struct):
    format: str


def _check_name(folder: Path, name: str) -> None:
    plain = name == Path(name).name and "\\" not in name and not name.startswith(".") and name.isprintable()
    if not plain or name in (MANIFEST, SIGNATURE):
        raise BundleError(f"{folder}: {MANIFEST} lists {name!r}, which is not a valid name for a file in a bundle")


def read_file(folder: OpenFolder, name: str, entry: FileEntry) -> bytes:
    """Return the content of a file of a bundle, read once, if it is the content that the manifest lists."""
    try:
        content = folder.read(name, entry.bytes)
    except FileNotFoundError as fault:
        raise BundleError(f"{folder.path}: {name} is missing; copy or export the bundle again") from fault
    except OSError as fault:
        why = "a link; copy the file itself" if fault.errno == errno.ELOOP else f"unreadable ({fault.strerror})"
        raise BundleError(f"{folder.path}: {name} is {why}") from fault
    if content is None or len(content) != entry.bytes:
        found = f"over {entry.bytes:,}" if content is None else f"{len(content):,}"
        raise BundleError(
            f"{folder.path}: {name} has {found} bytes, not {entry.bytes:,}; copy or export the bundle again"
        )
    if sha256(content) != entry.sha256:
        raise BundleError(
            f"{folder.path}: {name} was changed since its export (SHA-256 differs); copy or export it again"
        )
    return content

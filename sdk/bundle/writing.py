"""The folder of a bundle: written whole, replaced whole, and signed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from ..errors import BundleError, UsageError
from ..files import disk_failures, sha256, sync_folder, write_whole
from ..whole_folder import hidden_beside, whole_folder
from .folder import Bundle
from .keys import PrivateKey
from .manifest import MANIFEST, FileEntry, Manifest
from .reading import opened_folder, read_manifest
from .signature import SIGNATURE, Signed, signature_of


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a hidden folder that replaces the bundle `out` when the block ends; see `whole_folder`.

    Raises:
        UsageError: `out` exists and is not a bundle; nothing is written then.
        FileError: the disk is full, or the folder can't be written.
    """
    check_replaceable(out)
    with whole_folder(out) as folder:
        yield folder


def check_replaceable(out: Path) -> None:
    """Raise `UsageError` unless `out` does not exist, is an empty folder, or holds a bundle and nothing else."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"{out}: not a folder; choose another place for the bundle")
    there = {entry.name for entry in out.iterdir()} if out.exists() else set()
    if not there:
        return
    try:
        with opened_folder(out) as opened:
            known = {MANIFEST, SIGNATURE, *read_manifest(opened)[0].files}
    except BundleError:
        known = set()
    if strangers := sorted(there - known):
        raise UsageError(f"{out}: holds {strangers[0]}, which is not part of a bundle; choose another folder")


def seal(folder: Path, manifest: Manifest) -> None:
    """Hash every file in `folder` into `manifest.files` and write `bundle.json`.

    Raises:
        FileError: the disk is full.
    """
    contents = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
    files = {name: FileEntry(sha256(content), len(content)) for name, content in contents.items()}
    manifest = msgspec.structs.replace(manifest, files=files)
    text = msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2)
    write_whole(folder / MANIFEST, text + b"\n")


def sign(path: str | os.PathLike[str], key: PrivateKey) -> Bundle:
    """Check the bundle in the folder `path`, and write its `bundle.sig`. One that is there is replaced.

    Raises:
        BundleError: it can't be opened.
        FileError: the disk is full, or the folder can't be written.
    """
    bundle = Bundle.open(path)
    hidden = hidden_beside(bundle.path.resolve(), "new")  # outside of the bundle: a reader would not know the file
    try:
        write_whole(hidden / SIGNATURE, signature_of(bundle.contents[MANIFEST], key))
        with disk_failures(bundle.path):
            (hidden / SIGNATURE).replace(bundle.path / SIGNATURE)
            sync_folder(bundle.path)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return replace(bundle, signed=Signed(key.id, True))

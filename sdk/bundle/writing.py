"""The folder of a bundle: written whole, replaced whole, and signed."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import msgspec

from ..errors import BundleError, UsageError
from ..files import OpenFolder, disk_failures, exchange, sha256, sync_folder, sync_tree, write_whole
from .folder import Bundle
from .keys import PrivateKey
from .manifest import MANIFEST, FileEntry, Manifest
from .reading import opened_folder, read_manifest
from .signature import SIGNATURE, Signed, signature_of


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a hidden folder that replaces `out` when the block ends, and that is deleted if the block raises.

    At every moment, even if the process is killed, `out` is the old bundle or the new one. What a killed process left
    is removed by the next one.

    Raises:
        UsageError: `out` exists and is not a bundle; nothing is written then.
        FileError: the disk is full, or the folder can't be written.
    """
    check_replaceable(out)
    out = out.resolve()
    new_parents = [parent for parent in out.parents if not parent.exists()]
    folder = _hidden(out, "new")
    try:
        with disk_failures(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            _sweep(out)
            folder.mkdir()
        with OpenFolder(folder) as opened:
            opened.lock()  # tells others that it is in use
            yield folder
            with disk_failures(out):
                sync_tree(folder)
                _take_place(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in new_parents:
            with suppress(OSError):  # not empty: the bundle is in it
                parent.rmdir()


def _hidden(out: Path, kind: str) -> Path:
    return out.with_name(f".{out.name}.{uuid.uuid4().hex[:12]}.{kind}")


def _sweep(out: Path) -> None:
    """Remove the hidden folders that killed processes left beside `out`, or bring back the bundle in one."""
    left = re.compile(rf"\.{re.escape(out.name)}\.[0-9a-f]{{12}}\.(new|old)")
    for entry in sorted(out.parent.iterdir()):
        if not left.fullmatch(entry.name) or entry.is_symlink() or not entry.is_dir():
            continue
        if entry.suffix == ".old" and not out.exists():
            entry.rename(out)
            continue
        with suppress(OSError), OpenFolder(entry) as opened:
            if opened.lock():
                shutil.rmtree(entry, ignore_errors=True)


def _take_place(folder: Path, out: Path) -> None:
    """Give `folder` the name `out`. What had the name before is then called `folder`, or deleted."""
    if not out.exists():
        folder.rename(out)
    elif not exchange(folder, out):  # then for a moment there is neither
        old = _hidden(out, "old")
        out.rename(old)
        try:
            folder.rename(out)
        except BaseException:
            old.rename(out)
            raise
        shutil.rmtree(old, ignore_errors=True)
    sync_folder(out.parent)


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
    hidden = _hidden(bundle.path.resolve(), "new")  # outside of the bundle, where a reader would not know the file
    try:
        write_whole(hidden / SIGNATURE, signature_of(bundle.contents[MANIFEST], key))
        with disk_failures(bundle.path):
            (hidden / SIGNATURE).replace(bundle.path / SIGNATURE)
            sync_folder(bundle.path)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return replace(bundle, signed=Signed(key.id, True))

"""A folder that is written whole or not at all: it is filled under a hidden name, and takes its place in one step."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .files import OpenFolder, disk_failures, exchange, sync_folder, sync_tree


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield a hidden folder that replaces the folder `out` when the block ends, and is deleted if the block raises.

    At every moment, even if the process is killed, `out` is the old folder or the new one. What a killed process left
    is removed by the next one. The caller has made sure that `out` may be replaced.

    Raises:
        FileError: the disk is full, or the folder can't be written.
    """
    out = out.resolve()
    new_parents = [parent for parent in out.parents if not parent.exists()]
    folder = hidden_beside(out, "new")
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
            with suppress(OSError):  # not empty: the folder is in it
                parent.rmdir()


def hidden_beside(out: Path, kind: str) -> Path:
    """Return the name of a hidden folder beside `out`, which nobody else has."""
    return out.with_name(f".{out.name}.{uuid.uuid4().hex[:12]}.{kind}")


def _sweep(out: Path) -> None:
    """Remove the hidden folders that killed processes left beside `out`, or bring back the folder in one."""
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
        old = hidden_beside(out, "old")
        out.rename(old)
        try:
            folder.rename(out)
        except BaseException:
            old.rename(out)
            raise
        shutil.rmtree(old, ignore_errors=True)
    sync_folder(out.parent)

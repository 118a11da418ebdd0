"""Stores that were filled elsewhere: their units become units of this one, and no logits are copied."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from sdk.files import disk_failures, sync_folder

from .errors import StoreError
from .logits import LogitStore
from .logits.store import HEADER, refuse_other
from .progress import Progress
from .run import LOGITS, is_run

_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK)
"""The answers of a file system that can't give a file a second name."""


def store_in(folder: Path) -> Path:
    """Return the folder of the logit store that `folder` is, or of the run in `folder`.

    Raises:
        StoreError: there is no store.
    """
    store = folder / LOGITS if is_run(folder) else folder
    if not (store / HEADER).is_file():
        raise StoreError(f"{store}: no logit store there ({HEADER} is missing); name a run, or the folder of a store")
    return store


def join(store: LogitStore, folder: Path, progress: Progress) -> int:
    """Give the units in `folder` that `store` lacks a second name in `store`, by hard links. Return their number.

    Each of them is read first. Units that `store` has are left as they are, and so is the other store.

    Raises:
        StoreError: the other store was made for something else, or is this one; or one of its units is damaged, belongs
            to another place, or can't be linked.
        FileError: the folder can't be written.
    """
    refuse_other(folder, store.header, "only stores of copies of one run can be joined")
    if store.folder.exists() and folder.samefile(store.folder):
        raise StoreError(f"{folder}: is the store of this run itself; name another one by --join")
    other = LogitStore(folder, store.header, store.views)
    absent = set(other.missing())
    units = [unit for unit in store.missing() if unit not in absent]
    joined = 0
    progress.begin("joining a store", len(units))
    store.begin()
    for unit in units:
        other.read_unit(*unit)
        joined += _linked(other.path(*unit), store.path(*unit))
        progress.step()
    with disk_failures(store.folder):
        sync_folder(store.folder)
    progress.end()
    return joined


def _linked(path: Path, name: Path) -> bool:
    """Give a file another name. Return False if another process has made a file of that name meanwhile."""
    with disk_failures(name):
        try:
            os.link(path.resolve(), name)  # what a symbolic link stands for, not the link
        except FileExistsError:
            return False
        except OSError as fault:
            if fault.errno in _NO_LINKS:
                raise StoreError(
                    f"{path}: can't be linked into {name.parent} ({fault.strerror}); "
                    "copy its store to the file system of that folder, and join the copy"
                ) from fault
            fault.filename = str(name)
            raise
    return True

"""The folder of a run while somebody works on it: one process at a time, and nothing left of those that were killed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sdk.files import disk_failures, held

from .errors import RecipeError, RunError
from .recipe import read_recipe, write_recipe

LOCK, RECIPE = ".lock", "recipe.toml"
_PARTIAL = re.compile(r"\.[\w-]+\.(toml|json|jsonl|html|safetensors)\.[0-9a-f]+")
"""The name of a file of a run while it is written; see `sdk.files.write_whole`."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep every other worker from `folder` inside the block. The folder is created; if it stays empty, it is removed.

    Raises:
        RunError: another worker is there, in another process or in this one; or the path is not UTF-8.
        FileError: the folder can't be written.
    """
    refuse_odd_path(folder)
    lock, is_new = folder / LOCK, not folder.exists()
    with held(lock) as mine:
        _refuse_second(folder, mine)
        try:
            sweep((folder,))
            yield
        finally:
            with suppress(OSError):
                lock.unlink()
                if is_new:
                    folder.rmdir()


@contextmanager
def together(folder: Path) -> Iterator[None]:
    """Keep those from `folder` who work on it alone. Several processes may do so at the same time.

    Raises:
        RunError: a worker is there alone, in another process or in this one.
        FileError: the folder can't be written.
    """
    with held(folder / LOCK, shared=True) as mine:
        _refuse_second(folder, mine)
        yield


def _refuse_second(folder: Path, mine: bool) -> None:
    if not mine:
        raise RunError(f"{folder}: another process is working on it; wait until it is done, or choose another --out")


def refuse_odd_path(folder: Path) -> None:
    """Raise `RunError` if the path of a run is not UTF-8: TensorBoard could not open it."""
    try:
        str(folder).encode()
    except UnicodeEncodeError as fault:
        raise RunError(f"{folder}: the path of a run is not UTF-8; choose another --out") from fault


def is_new(folder: Path) -> bool:
    """Return whether `folder` is missing, empty, or holds only what a process has begun that was killed."""
    return not folder.exists() or all(map(_is_begun, folder.iterdir()))


def _is_begun(path: Path) -> bool:
    if path.name != RECIPE:
        return path.name == LOCK or _PARTIAL.fullmatch(path.name) is not None
    try:
        return path.read_text(encoding="utf-8") == write_recipe(read_recipe(path))  # a user's own has other words
    except (OSError, ValueError, RecipeError):
        return False


def sweep(folders: Iterable[Path]) -> None:
    """Remove what killed processes left of the files that they were writing.

    Raises:
        FileError: a file can't be removed.
    """
    for folder in folders:
        for path in folder.iterdir() if folder.is_dir() else ():
            if _PARTIAL.fullmatch(path.name):
                with disk_failures(path):
                    path.unlink(missing_ok=True)

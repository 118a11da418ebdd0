"""Folders and archives of small images, laid out as a test wants them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image


def written(kind: str, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)).convert(mode).save(file, kind)
    return file.getvalue()


PNG = written("PNG")


def lay(folder: Path, *names: str, content: bytes = PNG) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def lay_splits(folder: Path, *splits: str, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    return lay(folder, *(f"{split}/{name}/{n}.png" for split in splits for name in classes for n in range(3)))


def packed(folder: Path, kind: str, out: Path) -> Path:
    """Return the folder itself, or an archive of it."""
    if kind == "folder":
        return folder
    path = out / f"data.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(folder))
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
            archive.add(folder, ".")
    return path


def tar(path: Path, members: Mapping[str, bytes], mode: Literal["w", "w:gz", "w:bz2", "w:xz"] = "w") -> Path:
    """Write a tar with these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


kinds = pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz"])
"""Runs a test with each kind of source, see `packed`."""

"""Changes to a bundle that tests make: to its manifest, and to its files with the right hashes."""

from __future__ import annotations

import json
from pathlib import Path

from sdk.bundle.manifest import MANIFEST
from sdk.files import sha256


def manifest(folder: Path) -> dict:
    return json.loads((folder / MANIFEST).read_text())


def rewrite(folder: Path, **changes: object) -> None:
    (folder / MANIFEST).write_text(json.dumps({**manifest(folder), **changes}))


def reseal(folder: Path) -> None:
    """Make the hashes right again after a file was changed, as somebody who means harm would."""
    files = {
        file.name: {"sha256": sha256(file.read_bytes()), "bytes": file.stat().st_size} for file in folder.iterdir()
    }
    del files[MANIFEST]
    rewrite(folder, files=files)

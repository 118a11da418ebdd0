"""Write the folder of a web app that predicts with a bundle: our page, the bundle, and ONNX Runtime for browsers.

The page's files are in `web/`. They are built from the sources in `bindings/js`, which has the command that does so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from sdk.bundle import Bundle
from sdk.bundle.signature import MAX_SIGNATURE_BYTES, SIGNATURE
from sdk.errors import UsageError
from sdk.files import disk_failures, read_regular, sha256
from sdk.whole_folder import whole_folder

PAGE = ("index.html", "style.css", "app.js", "worker.js", "service.js")
BUNDLE, RUNTIME = "bundle", "runtime"

_GPU = ("webgpu", "asyncify")
"""Files of the runtime with these words are kept for use without a network only once they were used."""


def check_place(out: Path) -> None:
    """Raise `UsageError` unless `out` does not exist, is an empty folder, or holds an app and nothing else."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"{out}: not a folder; choose another place for the app")
    there = {entry.name for entry in out.iterdir()} if out.exists() else set()
    if strangers := sorted(there - {*PAGE, BUNDLE, RUNTIME}):
        raise UsageError(f"{out}: holds {strangers[0]}, which is not part of an app; choose another folder")


def write_app(bundle: Bundle, runtime: Mapping[str, bytes], out: Path) -> dict[str, bytes]:
    """Write the app, and return its files by name. An app that is there is replaced.

    Args:
        bundle: an ONNX bundle.
        runtime: the files of ONNX Runtime for browsers.

    Raises:
        FileError: the disk is full, or the folder can't be written.
    """
    files = {name: _page(name) for name in PAGE}
    files |= {f"{BUNDLE}/{name}": content for name, content in _contents(bundle).items()}
    files |= {f"{RUNTIME}/{name}": content for name, content in runtime.items()}
    files["service.js"] = _list_of(files) + files["service.js"]
    with whole_folder(out) as folder, disk_failures(out):
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
    return files


def _page(name: str) -> bytes:
    return resources.files(__package__).joinpath("web", name).read_bytes()


def _contents(bundle: Bundle) -> dict[str, bytes]:
    if bundle.signed is None:
        return dict(bundle.contents)
    signature = read_regular(bundle.path / SIGNATURE, MAX_SIGNATURE_BYTES)
    return {**bundle.contents, **({SIGNATURE: signature} if signature else {})}


def _list_of(files: Mapping[str, bytes]) -> bytes:
    """Return the line that says which files the service worker keeps, with a version that changes with any of them."""
    version = sha256(b"".join(name.encode() + sha256(content).encode() for name, content in files.items()))[:16]
    names = ["./", *(name for name in files if not any(word in name for word in _GPU))]
    kept = [name for name in names if name not in ("index.html", "service.js")]
    return f"const FILES = {json.dumps({'version': version, 'names': kept})};\n".encode()

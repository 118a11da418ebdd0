"""ONNX Runtime for browsers: its files come from the npm registry, or from a folder or an archive that the user has.

They are 41 MB, so they are no part of this package. The archive is known by its hash, fetched once, and kept.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import tarfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from sdk.errors import EngineMissing, FileError, UsageError
from sdk.files import read_regular, write_whole

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""The hash of the archive in base64, as npm's lock files write it."""

FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""The files that an app needs: three that compute on the CPU, and three for WebGPU."""

REGISTRY = "https://registry.npmjs.org"
ARCHIVE = f"{PACKAGE}-{VERSION}.tgz"
MAX_BYTES = 200 * 2**20
TIMEOUT_S = 60


def runtime_files(given: Path | None) -> dict[str, bytes]:
    """Return the content of `FILES`, by name.

    Args:
        given: the folder of the installed npm package, or its archive; None takes the one that was kept, or fetches it.

    Raises:
        UsageError: `given` is something else, or another version.
        EngineMissing: the archive can't be fetched.
    """
    if given is None:
        return _unpacked(_kept() or _fetched())
    if given.is_dir():
        return _installed(given)
    archive = _read(given)
    if archive is None or not _is_right(archive):
        raise UsageError(f"{given}: not the archive of {PACKAGE} {VERSION} (SHA-512 differs); fetch {_address()}")
    return _unpacked(archive)


def _installed(folder: Path) -> dict[str, bytes]:
    """Return the files of a package that npm installed."""
    about = _read(folder / "package.json") or b""
    try:
        found = json.loads(about)
        is_right = (found["name"], found["version"]) == (PACKAGE, VERSION)
    except (ValueError, KeyError, TypeError):
        is_right = False
    contents = {name: content for name in FILES if (content := _read(folder / "dist" / name)) is not None}
    if not is_right or len(contents) < len(FILES):
        raise UsageError(f"{folder}: not the npm package {PACKAGE} {VERSION}; npm install {PACKAGE}@{VERSION}")
    return contents


def _read(path: Path) -> bytes | None:
    """Return the content of a file; None if it can't be read, or is too large."""
    try:
        return read_regular(path, MAX_BYTES)
    except (OSError, ValueError):
        return None


def _is_right(archive: bytes) -> bool:
    return base64.b64encode(hashlib.sha512(archive).digest()).decode() == SHA512


def _unpacked(archive: bytes) -> dict[str, bytes]:
    """Return the files in an archive with the right hash."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        members = {name: tar.extractfile(f"package/dist/{name}") for name in FILES}
        return {name: member.read() for name, member in members.items() if member is not None}


def _kept() -> bytes | None:
    with suppress(RuntimeError):  # there is no home folder
        archive = _read(_place())
        return archive if archive is not None and _is_right(archive) else None
    return None


def _place() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "libkd-sdk", ARCHIVE).expanduser()


def _fetched() -> bytes:
    """Fetch the archive, and keep it if there is a place for it. Proxies are those of the environment."""
    address = _address()
    elsewhere = f"fetch it on another machine, and give the file by --runtime: {address}"
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:
            archive: bytes = answer.read(MAX_BYTES)
    except (OSError, ValueError, http.client.HTTPException) as fault:  # urllib's own errors are OSErrors
        reason = fault.reason if type(fault) is urllib.error.URLError else fault
        if isinstance(fault, urllib.error.HTTPError):
            fault.close()
        raise EngineMissing(f"{PACKAGE} can't be fetched ({reason}); {elsewhere}") from fault
    if not _is_right(archive):
        raise EngineMissing(f"{PACKAGE}: the registry sent another file (SHA-512 differs); {elsewhere}")
    with suppress(FileError, RuntimeError):
        write_whole(_place(), archive)
    return archive


def _address(environment: Mapping[str, str] = os.environ) -> str:
    """Return where the archive is in the registry that npm is configured for."""
    names = ("npm_config_registry", "NPM_CONFIG_REGISTRY")
    registry = next((environment[name] for name in names if environment.get(name)), REGISTRY).rstrip("/")
    if urllib.parse.urlsplit(registry).scheme not in ("http", "https"):
        raise UsageError(f"npm_config_registry={registry}: not the address of a registry; it begins with https://")
    return f"{registry}/{PACKAGE}/-/{ARCHIVE}"

"""The folder of a bundle: written whole, replaced whole, and read only if every byte is as it was written."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from runtimes.base import Session, Signature
from runtimes.engines import ENGINES, check_magic, open_session

from ..errors import BundleError, UsageError
from ..files import sha256, write_whole
from ..images import Input
from .golden import Golden, check_golden, read_golden
from .manifest import FORMAT, MANIFEST, FileEntry, Manifest, Precision

MAX_MANIFEST_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Bundle:
    """A folder with a valid manifest, whose files have exactly the content that the manifest lists."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read and check the bundle in the folder `path`. No engine is loaded.

        Raises:
            BundleError: it is missing, damaged, foreign, or written by a newer version.
        """
        folder = Path(path)
        try:
            manifest = _read_manifest_file(folder)
            for name in manifest.files:
                _check_place(folder, name)
            for name in ENGINES[manifest.target].files:
                if name not in manifest.files:
                    raise BundleError(f"{folder}: {MANIFEST} does not list {name}; export again")
            check_magic(manifest.target, folder)
            for name, entry in manifest.files.items():
                _check_bytes(folder, name, entry)
        except OSError as fault:
            raise BundleError(f"{folder}: can't be read ({fault.strerror or fault})") from fault
        return cls(folder, manifest)

    @property
    def labels(self) -> tuple[str, ...]:
        return self.manifest.labels

    @property
    def target(self) -> str:
        return self.manifest.target

    @property
    def precision(self) -> Precision:
        return self.manifest.precision

    @property
    def input(self) -> Input:
        return self.manifest.input

    @property
    def proved(self) -> bool:
        """True if it was compared with its PyTorch module on images when it was made."""
        return self.manifest.proof is not None

    @property
    def size_bytes(self) -> int:
        """The size of the engine's files, which a device has to store."""
        return sum(self.manifest.files[name].bytes for name in ENGINES[self.target].files)

    def session(self, threads: int | None = None) -> Session:
        """Load the model into its engine.

        Args:
            threads: number of threads; by default, the cores that this process may use.

        Raises:
            UsageError: fewer than one thread.
            BundleError: the shapes of the graph are not those of the manifest.
            EngineMissing, EngineError: the engine is not installed, or can't load the file.
        """
        if threads is not None and threads < 1:
            raise UsageError(f"threads={threads}: at least 1, or None for all cores")
        input = self.manifest.input
        signature = Signature(input.height, input.width, len(self.labels))
        return open_session(self.target, self.path, signature, threads, precision=self.precision)

    def golden(self) -> Golden | None:
        """Return the golden images, or None if the bundle was made without.

        Raises:
            BundleError: the file holds something else.
        """
        return read_golden(self.path, self.manifest)

    def self_test(self, session: Session) -> float | None:
        """Return the largest difference from the golden answers on this machine; None without golden images.

        Raises:
            ProofError: it is beyond what the precision allows.
        """
        golden = self.golden()
        return None if golden is None else check_golden(golden, session, self.path, self.precision)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a hidden folder that replaces `out` when the block ends, and that is deleted if the block raises.

    Raises:
        UsageError: `out` exists and is not a bundle; nothing is written then.
    """
    check_replaceable(out)
    out = out.resolve()
    token = uuid.uuid4().hex[:12]
    folder, old = (out.with_name(f".{out.name}.{token}.{kind}") for kind in ("new", "old"))
    new_parents = [parent for parent in out.parents if not parent.exists()]
    try:
        folder.mkdir(parents=True)
        yield folder
        _take_place(folder, out, old)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        for parent in new_parents:
            with suppress(OSError):  # not empty: the bundle is in it
                parent.rmdir()


def check_replaceable(out: Path) -> None:
    """Raise `UsageError` unless `out` does not exist, is an empty folder, or holds a bundle and nothing else."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"{out}: not a folder; choose another place for the bundle")
    there = {entry.name for entry in out.iterdir()} if out.exists() else set()
    if not there:
        return
    try:
        known = {MANIFEST, *_read_manifest_file(out).files}
    except BundleError:
        known = set()
    if strangers := sorted(there - known):
        raise UsageError(f"{out}: holds {strangers[0]}, which is not part of a bundle; choose another folder")


def seal(folder: Path, manifest: Manifest) -> None:
    """Hash every file in `folder` into `manifest.files` and write `bundle.json`."""
    files = {}
    for file in sorted(folder.iterdir()):
        files[file.name] = FileEntry(sha256(file.read_bytes()), file.stat().st_size)
    manifest = msgspec.structs.replace(manifest, files=files)
    text = msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2)
    write_whole(folder / MANIFEST, text + b"\n")


def _read_manifest_file(folder: Path) -> Manifest:
    file = folder / MANIFEST
    if not file.is_file():
        raise BundleError(f"{folder}: not a bundle (it has no {MANIFEST}); give the folder that export wrote")
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{file}: larger than {MAX_MANIFEST_BYTES // 2**20} MB; this is not a manifest")
    text = file.read_bytes()
    try:
        format = msgspec.json.decode(text, type=_Format).format
        if format != FORMAT and format.startswith("libkd-bundle/"):
            raise BundleError(f"{file}: written in format {format}, this version reads {FORMAT}; upgrade libkd-sdk")
        return msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise BundleError(f"{file}: not understood ({fault}); copy or export the bundle again") from fault


class _Format(msgspec.Struct):
    format: str


def _check_place(folder: Path, name: str) -> None:
    """Raise `BundleError` if a file does not lie in the folder itself, because of its name or of a link."""
    if name != Path(name).name or "\\" in name or name.startswith(".") or name == MANIFEST or not name.isprintable():
        raise BundleError(f"{folder}: {MANIFEST} lists {name!r}, which is not a valid name for a file in a bundle")
    file = folder / name
    if not file.exists():
        raise BundleError(f"{folder}: {name} is missing; copy or export the bundle again")
    if not file.is_file() or file.resolve().parent != folder.resolve():
        raise BundleError(f"{folder}: {name} is a link out of the bundle; copy the file itself")


def _check_bytes(folder: Path, name: str, entry: FileEntry) -> None:
    size = (folder / name).stat().st_size
    if size != entry.bytes:
        raise BundleError(f"{folder}: {name} has {size:,} bytes, not {entry.bytes:,}; copy or export the bundle again")
    if sha256((folder / name).read_bytes()) != entry.sha256:
        raise BundleError(f"{folder}: {name} was changed since its export (SHA-256 differs); copy or export it again")


def _take_place(folder: Path, out: Path, old: Path) -> None:
    replaced = out.exists()
    if replaced:
        out.rename(old)
    try:
        folder.rename(out)
    except BaseException:
        if replaced:
            old.rename(out)
        raise

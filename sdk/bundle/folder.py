"""The folder of a bundle: written whole, replaced whole, read once, and used only if every byte is as it was written.

The bytes that were checked are the bytes that an engine gets: no file is opened twice, and no engine opens one. So
nothing that happens to the folder while it is read can mix two bundles.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from runtimes.base import ModelFiles, Session, Signature
from runtimes.engines import ENGINES, open_session

from ..errors import BundleError, UsageError
from ..files import OpenFolder, disk_failures, exchange, sha256, sync_folder, sync_tree, write_whole
from ..images import Input
from .golden import GOLDEN, Golden, check_golden, read_golden
from .keys import Key, PrivateKey, read_public
from .manifest import MANIFEST, FileEntry, Manifest, Precision, carried_by
from .reading import opened_folder, read_bundle, read_file, read_manifest
from .signature import SIGNATURE, Signed, signature_of

ATTEMPTS = 100
"""How often a bundle is read anew because another one took its place meanwhile."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A folder with a valid manifest, whose files have exactly the content that the manifest lists.

    Attributes:
        path: the folder.
        manifest: the content of `bundle.json`.
        contents: the bytes of `bundle.json` and of the files that it lists, by name. A file that is not among them is
            read, and checked, when it is needed.
        signed: the key that signed it, and whether that was checked; None without a signature.
    """

    path: Path
    manifest: Manifest
    contents: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)
    signed: Signed | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, trusted: Key | Iterable[Key] | None = None) -> Bundle:
        """Read and check the bundle in the folder `path`. No engine is loaded.

        Args:
            trusted: the public key that must have signed it, or several of which one must have: paths of PEM files, or
                their bytes. By default, a signature is not checked.

        Raises:
            BundleError: it is missing, damaged, foreign, or written by a newer version.
            SignatureError: no trusted key signed it.
            UsageError: `trusted` holds no key.
            EngineMissing: `trusted` is given, and `cryptography` is not installed.
        """
        folder, keys = Path(path), None if trusted is None else read_public(trusted)
        for _ in range(ATTEMPTS):
            with opened_folder(folder) as opened:
                try:
                    return cls(folder, *read_bundle(opened, keys))
                except BundleError:
                    if not opened.was_replaced():
                        raise
        raise BundleError(f"{folder}: it is replaced again and again; try later")

    def without_contents(self) -> Bundle:
        """Return the same bundle without the bytes of its files, which then take no memory."""
        return replace(self, contents={})

    def read(self, name: str) -> bytes:
        """Return the content of a file that the manifest lists.

        Raises:
            BundleError: the file is not there any more, or was changed.
        """
        if name in self.contents:
            return self.contents[name]
        with opened_folder(self.path) as opened:
            return read_file(opened, name, self.manifest.files[name])

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
            BundleError: the model's input or output is not that of the manifest, or its file carries another manifest.
            EngineMissing, EngineError: the engine is not installed, or can't load the file.
        """
        if threads is not None and threads < 1:
            raise UsageError(f"threads={threads}: at least 1, or None for all cores")
        input, names = self.manifest.input, ENGINES[self.target].files
        files = ModelFiles(str(self.path), {name: self.read(name) for name in names})
        signature = Signature(input.height, input.width, len(self.labels))
        session, carried = open_session(self.target, files, signature, threads, precision=self.precision)
        if carried_by(carried) != self.manifest.description():
            session.close()
            raise BundleError(
                f"{self.path}: {names[0]} was made for another {MANIFEST}; copy the whole folder, or export again"
            )
        return session

    def golden(self) -> Golden | None:
        """Return the golden images, or None if the bundle was made without.

        Raises:
            BundleError: the file holds something else.
        """
        if GOLDEN not in self.manifest.files:
            return None
        return read_golden(self.read(GOLDEN), str(self.path), self.manifest)

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

"""The folder of a bundle: read once, and used only if every byte is as it was written.

The bytes that were checked are the bytes that an engine gets: no file is opened twice, and no engine opens one. So
nothing that happens to the folder while it is read can mix two bundles.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from runtimes.base import Elsewhere, ModelFiles, Session, Signature
from runtimes.engines import ENGINES, elsewhere, open_session

from ..errors import BundleError, UsageError
from ..images import Input
from .golden import GOLDEN, Golden, check_golden, read_golden
from .keys import Key, read_public
from .manifest import MANIFEST, Manifest, Precision, carried_by
from .reading import opened_folder, read_bundle, read_file
from .signature import Signed

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
    def elsewhere(self) -> Elsewhere | None:
        """The place where it runs if not here: it is *unverified on device*. None if a `Classifier` runs it."""
        return elsewhere(self.target, self.manifest.backend)

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
            EngineMissing, EngineError: the engine is not installed, can't load the file, or only runs elsewhere.
        """
        if threads is not None and threads < 1:
            raise UsageError(f"threads={threads}: at least 1, or None for all cores")
        input, names = self.manifest.input, ENGINES[self.target].files
        files = ModelFiles(str(self.path), {name: self.read(name) for name in names})
        signature = Signature(input.height, input.width, len(self.labels))
        session, carried = open_session(
            self.target, files, signature, threads, precision=self.precision, backend=self.manifest.backend
        )
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

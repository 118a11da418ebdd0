"""A bundle: a folder with `bundle.json`, the engine's files and golden pictures, that proves itself wherever it stands.

`bundle.json` is a `Manifest`. The model file carries the same, less what can't be known before the file is made.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from runtimes.base import ENGINES, Session, Signature, check_magic, open_session, read_manifest

from .errors import BundleError, ProofError, UsageError, engine_faults
from .images import Input, Pixels

FORMAT = "libkd-bundle/1"
MANIFEST = "bundle.json"
GOLDEN = "golden.safetensors"
KNOWN_AFTERWARDS = ("files", "lowered", "proof")
MAX_MANIFEST_BYTES = 16 * 2**20
MAX_FILE_BYTES = 2 * 2**30  # no engine here reads a larger single file

TOLERANCE = {"fp32": 1e-4, "fp16": 0.05, "int8": 0.1}
"""By precision: how far a probability may be from the golden one, on any machine; at fp32 also from PyTorch's. Below
fp32 a CPU without 8-bit or 16-bit arithmetic of its own rounds otherwise, but what is wrong is off by far more."""

Target: TypeAlias = Literal["onnx", "openvino", "executorch"]
Precision: TypeAlias = Literal["fp32", "fp16", "int8"]
Label: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f]+\Z", max_length=500)]
Share: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file of the bundle has to be."""

    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_FILE_BYTES)]


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the graph returns: probabilities [batch, classes]; `temperature` has already divided the logits."""

    kind: Literal["probabilities"] = "probabilities"
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the weights come from."""

    arch: str
    parameters: Count
    teachers: tuple[str, ...] = ()
    trained_on: str | None = None
    calibrated_on: str | None = None


class Quantized(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How 8-bit weights came about: from how many pictures, and which layers stayed in float."""

    calibration_images: Annotated[int, msgspec.Meta(ge=1)]
    float_layers: tuple[str, ...] = ()


class Lowered(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How an engine that cuts graphs up cut this one: parts that its backend runs, and operators that it does not."""

    delegates: Count
    outside: dict[str, Count]


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was measured when the bundle was made, against the fp32 PyTorch module on the same pixels.

    `max_abs_difference` is of probabilities. The last two are None where the pictures had no labels.
    """

    images: Annotated[int, msgspec.Meta(ge=1)]
    max_abs_difference: Share
    top1_agreement: Share
    top1: Share | None = None
    reference_top1: Share | None = None

    @property
    def drop(self) -> float:
        """Points of top-1 that the lowered model lost. Without labels: of pictures that it calls otherwise."""
        if self.top1 is None or self.reference_top1 is None:
            return 100 * (1 - self.top1_agreement)
        return 100 * (self.reference_top1 - self.top1)


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`bundle.json`."""

    format: Literal["libkd-bundle/1"]
    name: Label
    created: str
    target: Target
    precision: Precision
    files: dict[str, FileEntry]
    labels: Annotated[tuple[Label, ...], msgspec.Meta(min_length=2)]
    input: Input
    output: Output
    model: Model
    quantized: Quantized | None = None
    lowered: Lowered | None = None
    proof: Proof | None
    versions: dict[str, str]


class Golden(msgspec.Struct, frozen=True):
    """Pictures as `pixels` [n, height, width, 3], and the `probabilities` [n, classes] that they should get.

    At fp32 these are PyTorch's; below, the lowered model's own on the machine that made it.
    """

    pixels: Pixels
    probabilities: NDArray[np.float32]

    def max_abs_difference(self, session: Session) -> float:
        """How far the session's probabilities are from the expected ones, at worst; NaN if it answers with NaN."""
        return float(np.abs(session.run(self.pixels) - self.probabilities).max())


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What `verify` found right. `golden` counts pictures; without any, the last two are None."""

    files: int
    golden: int
    max_abs_difference: float | None
    tolerance: float | None


@dataclass(frozen=True, slots=True)
class Bundle:
    """A folder whose manifest was understood and whose files are, byte for byte, the ones that it lists."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read and check the bundle in the folder `path`. Loads no engine.

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
            with engine_faults(str(folder)):
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
    def target(self) -> Target:
        return self.manifest.target

    @property
    def precision(self) -> Precision:
        return self.manifest.precision

    @property
    def input(self) -> Input:
        return self.manifest.input

    @property
    def proved(self) -> bool:
        """Whether it was compared with its reference on pictures when it was made."""
        return self.manifest.proof is not None

    @property
    def size_bytes(self) -> int:
        """Of the engine's files, which is what a device has to store."""
        return sum(self.manifest.files[name].bytes for name in ENGINES[self.target].files)

    def session(self, threads: int | None = None) -> Session:
        """The model, loaded into its engine. `threads` defaults to the cores that this process may use.

        Raises:
            UsageError: fewer than one thread.
            BundleError: the graph takes or returns something else than the manifest says.
            EngineMissing, EngineError: the engine is not installed, or can't load the file.
        """
        if threads is not None and threads < 1:
            raise UsageError(f"threads={threads}: at least 1, or None for all cores")
        input = self.manifest.input
        signature = Signature(input.height, input.width, len(self.labels))
        with engine_faults(str(self.path)):
            return open_session(self.target, self.path, signature, threads, precision=self.precision)

    def golden(self) -> Golden | None:
        """The golden pictures, or None if the bundle was made without.

        Raises:
            BundleError: the file holds something else.
        """
        if GOLDEN not in self.manifest.files:
            return None
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors = load_file(self.path / GOLDEN)
            golden = Golden(tensors["pixels"], tensors["probabilities"])
        except (SafetensorError, KeyError, OSError) as fault:
            raise BundleError(f"{self.path}: {GOLDEN} can't be read ({fault}); export again") from fault
        input, (count, *_) = self.manifest.input, (*golden.pixels.shape, 0)
        for array, dtype, shape in (
            (golden.pixels, np.uint8, (count, input.height, input.width, 3)),
            (golden.probabilities, np.float32, (count, len(self.labels))),
        ):
            if array.dtype != dtype or array.shape != shape or not count:
                raise BundleError(f"{self.path}: {GOLDEN} does not fit {MANIFEST}; export again")
        return golden

    def self_test(self, session: Session) -> float | None:
        """The worst difference from the golden answers on this machine; None without golden pictures.

        Raises:
            ProofError: it is beyond what the precision allows.
        """
        golden = self.golden()
        if golden is None:
            return None
        with engine_faults(str(self.path)):
            difference = golden.max_abs_difference(session)
        tolerance = TOLERANCE[self.precision]
        if not difference <= tolerance:
            raise ProofError(
                f"{self.path}: golden answers are off by {difference:.2g} on this machine, more than {tolerance:g}; "
                "export again with this engine's version, or choose another target"
            )
        return difference


def verify(bundle: Bundle | str | os.PathLike[str], *, threads: int | None = None) -> Verification:
    """Check a bundle on this machine: its files again, the manifest inside the model file, and the golden answers.

    Raises:
        BundleError: a file is damaged, or the model file names another manifest.
        ProofError: the golden answers are not reproduced here.
        EngineError: the engine is missing or fails.
    """
    bundle = Bundle.open(bundle.path if isinstance(bundle, Bundle) else bundle)
    with engine_faults(str(bundle.path)):
        carried = read_manifest(bundle.target, bundle.path)
    if _parsed(carried) != _parsed(embedded(bundle.manifest)):
        raise BundleError(
            f"{bundle.path}: {ENGINES[bundle.target].files[0]} was made for another {MANIFEST}; "
            "copy the whole folder, or export again"
        )
    session = bundle.session(threads)
    try:
        difference = bundle.self_test(session)
        golden = bundle.golden()
    finally:
        session.close()
    return Verification(
        files=len(bundle.manifest.files),
        golden=0 if golden is None else len(golden.pixels),
        max_abs_difference=difference,
        tolerance=None if golden is None else TOLERANCE[bundle.precision],
    )


def embedded(manifest: Manifest) -> str:
    """The JSON, on one line, that rides inside the model file: the manifest less what is known only afterwards."""
    described = msgspec.to_builtins(manifest)
    for name in KNOWN_AFTERWARDS:
        del described[name]
    return msgspec.json.encode(described, order="deterministic").decode()


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out` that takes its place when the block ends, and is gone if the block raises.

    Raises:
        UsageError: `out` is there already and is not a bundle, before anything is written.
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
        raise UsageError(f"{out}: holds {strangers[0]}, which is no part of a bundle; choose another place for it")


def seal(folder: Path, manifest: Manifest) -> None:
    """Hash every file in `folder` into `manifest.files` and write `bundle.json`."""
    files = {}
    for file in sorted(folder.iterdir()):
        files[file.name] = FileEntry(_sha256(file), file.stat().st_size)
    manifest = msgspec.structs.replace(manifest, files=files)
    text = msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2)
    (folder / MANIFEST).write_bytes(text + b"\n")


def _read_manifest_file(folder: Path) -> Manifest:
    file = folder / MANIFEST
    if not file.is_file():
        raise BundleError(f"{folder}: no bundle (there is no {MANIFEST} in it); give the folder that export wrote")
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{file}: larger than {MAX_MANIFEST_BYTES // 2**20} MB; this is no manifest")
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
    """A file lies in the folder itself: no way out of it by its name or by a link."""
    if name != Path(name).name or "\\" in name or name.startswith(".") or name == MANIFEST or not name.isprintable():
        raise BundleError(f"{folder}: {MANIFEST} lists {name!r}, which is no name for a file in a bundle")
    file = folder / name
    if not file.exists():
        raise BundleError(f"{folder}: {name} is missing; copy or export the bundle again")
    if not file.is_file() or file.resolve().parent != folder.resolve():
        raise BundleError(f"{folder}: {name} leads out of the bundle; copy the file itself")


def _check_bytes(folder: Path, name: str, entry: FileEntry) -> None:
    size = (folder / name).stat().st_size
    if size != entry.bytes:
        raise BundleError(f"{folder}: {name} has {size:,} bytes, not {entry.bytes:,}; copy or export the bundle again")
    if _sha256(folder / name) != entry.sha256:
        raise BundleError(f"{folder}: {name} was changed since its export (SHA-256 differs); copy or export it again")


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


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


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None

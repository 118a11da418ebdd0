"""The export of any torch classifier to a bundle: wrap, lower, prove, seal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from msgspec.structs import replace

from runtimes.base import Lowering, ModelFiles, Outcome, Quantization, Session, Signature
from runtimes.checked import CheckedSession
from runtimes.engines import ENGINES, OpenSession, elsewhere, open_session

from ..bundle import Bundle
from ..bundle.golden import TOLERANCE, Golden
from ..bundle.keys import Key, read_private
from ..bundle.manifest import Lowered, Manifest, Proof, Quantized, embedded
from ..bundle.writing import check_replaceable, new_folder, seal
from ..bundle.writing import sign as sign_bundle
from ..errors import ExportError, ProofError, UsageError
from ..files import disk_failures
from ..images import ImageSource, Pixels, Preprocessing, pixels
from ..traces import remove_unused_compiler_cache
from . import proof
from .card import CARD, model_card
from .request import ExportRequest, GoldenKind, find_backend, find_lowering

if TYPE_CHECKING:
    import torch

    from .deployed import Deployed

Validation: TypeAlias = Iterable[tuple[ImageSource, int | None]] | tuple[Pixels, Any]
Progress: TypeAlias = Callable[[str, int, int], None]
"""A function that is told the stage ("calibrating", "lowering", "proving", "ranking layers"), the number of steps that
are done, and the number of all steps."""

remove_unused_compiler_cache()

CALIBRATION_IMAGES = 128
MAX_DROP = 1.0
MOVED = 0.25
"""The largest share of an image's probabilities that may lie with other classes at fp16, without validation images."""


def export(
    module: torch.nn.Module,
    *,
    target: str,
    backend: str | None = None,
    precision: str = "fp32",
    out: str | os.PathLike[str],
    labels: Sequence[str],
    preprocessing: Preprocessing,
    calibration: Iterable[ImageSource] | Pixels | None = None,
    validation: Validation | None = None,
    max_drop: float = MAX_DROP,
    name: str | None = None,
    model: Mapping[str, Any] | None = None,
    golden: GoldenKind = "blends",
    sign: Key | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Lower `module` for an engine, compare the result with it, and write a bundle.

    Args:
        module: maps float32 [batch, 3, height, width], normalised, to logits [batch, classes]. It is not changed. If
            it has a `temperature`, it must apply it; the manifest records the value.
        target: the name of an engine: "onnx", "openvino", "executorch" or "coreml".
        backend: for "executorch", what it delegates to: "xnnpack", the default, "vulkan" or "coreml". The last two, and
            the target "coreml", run on other devices only: the bundle is *unverified on device*. Then the program that
            was given to the backend is compared in PyTorch, and the bundle is not `proved`.
        precision: "fp32"; "fp16": weights of half the size, and 16-bit arithmetic if the engine is faster with it;
            "int8": a quarter of the size.
        out: the bundle's folder. An existing bundle is replaced when the new one is complete.
        labels: the names of the classes, in the order of the logits.
        preprocessing: the steps from an image to the input of `module`.
        calibration: images like those that will be predicted, or uint8 [n, height, width, 3]. Required at int8, and
            allowed only there. 128 of them, evenly spread, are used.
        validation: pairs of (image, label index or None), or uint8 [n, height, width, 3] with n labels or None. The
            proof is measured on them; without them the bundle is not `proved`.
        max_drop: the largest allowed loss of top-1 on the validation images, in points; for images without labels, of
            unchanged answers. At int8, the most sensitive layers stay in float until the loss is small enough.
        name: the name of the bundle; by default, the name of its folder.
        model: `arch`, `parameters`, `teachers`, `trained_on`, `calibrated_on`; the first two are found out if absent.
        golden: the images that the bundle carries with their expected answers: "blends" of eight validation images
            each, eight "pictures" as they are, or "none".
        sign: the private key that signs the bundle: the path of a PEM file, or its bytes. By default it is not signed.
        progress: a function that is told how far the export is.

    Raises:
        UsageError: an argument makes no sense.
        ExportError: the module can't be lowered as asked.
        ProofError: the lowered model answers differently (fp32: a probability differs by more than 1e-4), or loses
            more than `max_drop`.
        EngineMissing: the engine, torch, or `cryptography` for `sign`, is not installed.
        ImageError: a validation or calibration image can't be read.
        FileError: the disk is full, or the folder can't be written.
    """
    lowering = find_lowering(target, precision, backend)
    request = ExportRequest(
        module=module,
        target=target,
        backend=find_backend(target, backend),
        precision=precision,
        out=Path(out),
        labels=labels,
        preprocessing=preprocessing,
        max_drop=max_drop,
        name=name,
        model=model or {},
        golden=golden,
    )
    request.check()
    if (calibration is not None) != (precision == "int8"):
        need = "int8 needs some images; name those of training" if precision == "int8" else "only int8 takes it"
        raise UsageError(f"calibration: {need}")
    check_replaceable(request.out)
    key = None if sign is None else read_private(sign)
    judged = None if validation is None else proof.labelled_images(validation, len(labels))
    if golden == "pictures" and judged is None:
        raise UsageError('golden="pictures" needs validation images; give some, or leave it at "blends"')
    deployed, manifest, tell = request.deployed(), request.manifest(), progress or _tell_nobody
    calibrating = None if calibration is None else _calibration_pixels(calibration, preprocessing, tell)

    with new_folder(request.out) as folder, disk_failures(request.out):
        attempt = _Attempt(lowering, deployed, manifest, folder, judged, golden, tell)
        made = attempt.run() if calibrating is None else _quantized_within(attempt, calibrating, max_drop)
        if made.proof is not None and made.proof.drop > max_drop:
            raise ProofError(_lost(made, max_drop))
        if elsewhere(target, request.backend):
            made = replace(made, proof=None)  # it is that of the stand-in
        (folder / CARD).write_text(model_card(made), encoding="utf-8")
        seal(folder, made)
        if key is None:
            Bundle.open(folder)
        else:
            sign_bundle(folder, key)
    return Bundle.open(request.out)


@dataclass(frozen=True)
class _Attempt:
    """One lowering into a folder, and the measurement of its result."""

    lowering: Lowering
    deployed: Deployed
    manifest: Manifest
    folder: Path
    judged: proof.LabelledImages | None
    golden: GoldenKind
    tell: Progress

    def run(self, quantization: Quantization | None = None) -> Manifest:
        """Lower and measure, and return the manifest with all that is known now. Files of an earlier attempt are
        replaced."""
        manifest = self.manifest
        if quantization is not None:
            quantized = Quantized(
                calibration_images=len(quantization.images), float_layers=_shown(quantization.float_layers)
            )
            manifest = replace(manifest, quantized=quantized)
        self.tell("lowering", 0, 1)
        outcome = self._lower(manifest, quantization)
        self.tell("lowering", 1, 1)
        if delegation := outcome.delegation:
            manifest = replace(manifest, lowered=Lowered(**delegation._asdict()))
        return replace(manifest, proof=self._prove(manifest, outcome))

    def _lower(self, manifest: Manifest, quantization: Quantization | None) -> Outcome:
        outcome = self.lowering.lower(
            self.deployed,
            signature=_signature(manifest),
            precision=manifest.precision,
            backend=manifest.backend,
            quantization=quantization,
            manifest=embedded(manifest),
            folder=self.folder,
        )
        return outcome or Outcome()

    def _opened(self, manifest: Manifest, outcome: Outcome) -> OpenSession:
        """Return the lowered files as a session; what stands for them if they only run elsewhere."""
        signature, place = _signature(manifest), f"{manifest.target} {manifest.precision}"
        if stand_in := outcome.stand_in:
            return OpenSession(CheckedSession(stand_in, signature, place), stand_in.manifest)
        files = ModelFiles.in_folder(self.folder, ENGINES[manifest.target].files)._replace(place=place)
        return open_session(manifest.target, files, signature, precision=manifest.precision, backend=manifest.backend)

    def _prove(self, manifest: Manifest, outcome: Outcome) -> Proof | None:
        """Compare the lowered files with PyTorch, and write the golden images into the folder."""
        from .deployed import Reference

        reference = Reference(self.deployed)
        golden = proof.golden(
            reference,
            self.judged,
            manifest.input,
            blend=self.golden != "pictures",
            contrasty=manifest.precision != "int8",  # far from the calibration images, 8 bits differ between CPUs
        )
        session, carried = self._opened(manifest, outcome)
        try:
            if carried != embedded(manifest):
                raise ExportError(f"{manifest.target} loses the manifest; use plain characters in name and labels")
            probes = np.concatenate([golden.pixels, proof.extremes(manifest.input)])
            found, expected = session.run(probes), reference.run(probes)
            _check_difference(proof.largest_difference(found, expected), manifest)
            if self.judged is None and manifest.precision == "fp16":
                _check_moved(proof.moved(found, expected), manifest)
            if manifest.precision != "fp32":
                golden = Golden(golden.pixels, session.run(golden.pixels))
            measured = self._measure(session, reference, manifest)
        finally:
            session.close()
        if self.golden != "none":
            golden.write(self.folder)
        return measured

    def _measure(self, session: Session, reference: Session, manifest: Manifest) -> Proof | None:
        if self.judged is None:
            return None
        measured = proof.measure(
            session, reference, self.judged, manifest.input, lambda done, total: self.tell("proving", done, total)
        )
        _check_difference(measured.max_abs_difference, manifest)
        return measured


def _quantized_within(attempt: _Attempt, images: Pixels, max_drop: float) -> Manifest:
    """Lower to 8 bits, and keep as many of the most sensitive layers in float as `max_drop` requires."""
    from .sensitivity import most_sensitive_first

    made = attempt.run(Quantization(images))
    if made.proof is None or made.proof.drop <= max_drop:
        return made
    ranked = most_sensitive_first(attempt.deployed, images, lambda *now: attempt.tell("ranking layers", *now))
    kept = 1
    while kept < len(ranked):
        made = attempt.run(Quantization(images, tuple(ranked[:kept])))
        assert made.proof is not None
        if made.proof.drop <= max_drop:
            return made
        kept *= 2
    raise ProofError(_lost(made, max_drop))


def _lost(made: Manifest, max_drop: float) -> str:
    assert made.proof is not None
    kept = len(made.quantized.float_layers) if made.quantized else 0
    though = f" though {kept} of its layers stayed in float" if kept else ""
    return (
        f"{made.target} {made.precision}: loses {made.proof.drop:.1f} points of top-1{though}, more than "
        f"{max_drop:g}; nothing was written. Allow more by max_drop, or take another precision"
    )


def _shown(layers: Sequence[str]) -> tuple[str, ...]:
    """Return the layers' names as the caller's own module has them."""
    return tuple(layer.removeprefix("classifier.") for layer in layers)


def _calibration_pixels(
    calibration: Iterable[ImageSource] | Pixels, preprocessing: Preprocessing, tell: Progress
) -> Pixels:
    sources = list(calibration)
    if not sources:
        raise UsageError("calibration: no images; int8 needs some, like those that will be predicted")
    chosen = np.linspace(0, len(sources) - 1, min(len(sources), CALIBRATION_IMAGES)).round().astype(int)
    found = []
    for done, index in enumerate(chosen, 1):
        found.append(pixels(sources[index], preprocessing.input))
        tell("calibrating", done, len(chosen))
    return np.stack(found)


def _check_difference(difference: float, manifest: Manifest) -> None:
    """Raise `ProofError` if probabilities differ too much. Below fp32 only NaN does: there `max_drop` decides."""
    tolerance = TOLERANCE["fp32"] if manifest.precision == "fp32" else 1.0
    if not difference <= tolerance:
        raise ProofError(
            f"{manifest.target} {manifest.precision}: probabilities differ from PyTorch's by {difference:.2g}, "
            f"more than {tolerance:g}; nothing was written. Try another target"
        )


def _check_moved(share: float, manifest: Manifest) -> None:
    """Raise `ProofError` if the answers are others altogether. Without validation images, `max_drop` can't tell."""
    if share > MOVED:
        raise ProofError(
            f"{manifest.target} {manifest.precision}: {share:.0%} of the probabilities of an image are with other "
            "classes than in PyTorch, as if numbers were too large for 16 bits; nothing was written. Take fp32, or "
            "give validation images, so that max_drop decides"
        )


def _signature(manifest: Manifest) -> Signature:
    return Signature(manifest.input.height, manifest.input.width, len(manifest.labels))


def _tell_nobody(stage: str, done: int, total: int) -> None:
    pass

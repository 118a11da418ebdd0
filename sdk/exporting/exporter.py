"""Any torch classifier -> a bundle: wrap, lower, prove, seal."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import msgspec
import numpy as np

from runtimes.base import Lowering, Quantization, Signature, first_line
from runtimes.engines import ENGINES, load_lowering, open_session, read_manifest

from ..bundle.folder import Bundle, check_replaceable, new_folder, seal
from ..bundle.golden import TOLERANCE, Golden
from ..bundle.manifest import FORMAT, Label, Lowered, Manifest, Model, Output, Proof, Quantized, embedded
from ..errors import ExportError, ProofError, UsageError, did_you_mean
from ..images import ImageSource, Pixels, Preprocessing, pixels
from . import proof
from .card import CARD, model_card

if TYPE_CHECKING:
    import torch

    from .deployed import Deployed

GoldenKind: TypeAlias = Literal["blends", "pictures", "none"]
Validation: TypeAlias = Iterable[tuple[ImageSource, int | None]] | tuple[Pixels, Any]
Progress: TypeAlias = Callable[[str, int, int], None]
"""Told the stage ("calibrating", "lowering", "proving", "ranking layers"), and how much of how much of it is done."""

CALIBRATION_PICTURES = 128
MAX_DROP = 1.0


def export(
    module: torch.nn.Module,
    *,
    target: str,
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
    progress: Progress | None = None,
) -> Bundle:
    """Lower `module` for an engine, compare the result with it, and write a bundle.

    Args:
        module: maps float32 [batch, 3, height, width], normalised, to logits [batch, classes]. It is not changed. A
            `temperature` that it has, it applies itself; the manifest records it.
        target: "onnx", "openvino" or "executorch".
        precision: "fp32"; "fp16": weights of half the size, and 16-bit arithmetic where the engine gains from it;
            "int8": a quarter of the size.
        out: the bundle's folder. A bundle that is there is replaced once the new one is whole.
        labels: the classes' names, in the order of the logits.
        preprocessing: how a picture becomes what `module` takes.
        calibration: pictures like those that will be predicted, or uint8 [n, height, width, 3], which int8 needs and
            the others do not take. 128, evenly spread, are used.
        validation: pairs of (picture, label index or None), or uint8 [n, height, width, 3] with n labels or None. On
            these the proof is measured; without them the bundle is not `proved`.
        max_drop: points of top-1 on the validation pictures that the lowered model may lose; where they have no labels,
            of pictures that it calls otherwise. At int8, the layers that suffer most are kept in float until it holds.
        name: what the bundle is called; by default, like its folder.
        model: `arch`, `parameters`, `teachers`, `trained_on`, `calibrated_on`; the first two are found out if absent.
        golden: which pictures travel along with the expected answers: blends of eight, eight as they are, or none.

    Raises:
        UsageError: an argument that can't be meant.
        ExportError: the module can't be lowered as asked.
        ProofError: the lowered model answers differently (fp32: by more than 1e-4 in a probability), or loses more
            than `max_drop`.
        EngineMissing: the engine, or torch, is not installed.
        ImageError: a validation or calibration picture can't be read.
    """
    out = Path(out)
    lowering = find_lowering(target, precision)
    _check_arguments(labels, preprocessing, golden, max_drop)
    if (calibration is not None) != (precision == "int8"):
        need = "int8 needs some pictures; name those of training" if precision == "int8" else "only int8 takes it"
        raise UsageError(f"calibration: {need}")
    check_replaceable(out)
    pictures = None if validation is None else proof.as_pictures(validation, len(labels))
    if golden == "pictures" and pictures is None:
        raise UsageError('golden="pictures" needs validation pictures; give some, or leave it at "blends"')
    deployed = _deploy(module, labels, preprocessing)
    manifest = _describe(module, target, precision, out, labels, preprocessing, name, model)
    tell = progress or (lambda stage, done, total: None)
    seen = None if calibration is None else _calibration_pixels(calibration, preprocessing, tell)

    with new_folder(out) as folder:
        attempt = _Attempt(lowering, deployed, manifest, folder, pictures, golden, tell)
        made = attempt.run() if seen is None else _quantized_within(attempt, seen, max_drop)
        if made.proof is not None and made.proof.drop > max_drop:
            raise ProofError(_lost(made, max_drop))
        (folder / CARD).write_text(model_card(made), encoding="utf-8")
        seal(folder, made)
        Bundle.open(folder)
    return Bundle.open(out)


@dataclass(frozen=True)
class _Attempt:
    """Lowering into a folder, and measuring what came out of it."""

    lowering: Lowering
    deployed: Deployed
    manifest: Manifest
    folder: Path
    pictures: proof.Pictures | None
    golden: GoldenKind
    tell: Progress

    def run(self, quantization: Quantization | None = None) -> Manifest:
        """The manifest, with all that is now known. What an earlier attempt left is replaced."""
        manifest = self.manifest
        if quantization is not None:
            quantized = Quantized(
                calibration_images=len(quantization.images), float_layers=_shown(quantization.float_layers)
            )
            manifest = msgspec.structs.replace(manifest, quantized=quantized)
        self.tell("lowering", 0, 1)
        lowered = _lower(self.lowering, self.deployed, manifest, quantization, self.folder)
        self.tell("lowering", 1, 1)
        measured = _prove(self.deployed, manifest, self.folder, self.pictures, self.golden, self.tell)
        return msgspec.structs.replace(manifest, lowered=lowered, proof=measured)


def _quantized_within(attempt: _Attempt, pictures: Pixels, max_drop: float) -> Manifest:
    """In 8 bits, but for as many of the most sensitive layers as have to stay in float."""
    from .sensitivity import most_sensitive_first

    made = attempt.run(Quantization(pictures))
    if made.proof is None or made.proof.drop <= max_drop:
        return made
    ranked = most_sensitive_first(attempt.deployed, pictures, lambda *now: attempt.tell("ranking layers", *now))
    kept = 1
    while kept < len(ranked):
        made = attempt.run(Quantization(pictures, tuple(ranked[:kept])))
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
    """As the caller's own module names them."""
    return tuple(layer.removeprefix("classifier.") for layer in layers)


def _calibration_pixels(
    calibration: Iterable[ImageSource] | Pixels, preprocessing: Preprocessing, tell: Progress
) -> Pixels:
    sources = list(calibration)
    if not sources:
        raise UsageError("calibration: no pictures; int8 needs some, like those that will be predicted")
    chosen = np.linspace(0, len(sources) - 1, min(len(sources), CALIBRATION_PICTURES)).round().astype(int)
    found = []
    for done, index in enumerate(chosen, 1):
        found.append(pixels(sources[index], preprocessing.input))
        tell("calibrating", done, len(chosen))
    return np.stack(found)


def find_lowering(target: str, precision: str) -> Lowering:
    """The way to lower for an engine, or the reason why there is none, before any long work.

    Raises:
        UsageError: an unknown target.
        ExportError: an unknown precision.
        EngineMissing: the engine, or torch, is not installed.
    """
    if target not in ENGINES:
        raise UsageError(f"target {target!r} is unknown; {did_you_mean(target, ENGINES)}")
    precisions = ENGINES[target].precisions
    if precision not in precisions:
        raise ExportError(f"{target} is lowered at {', '.join(precisions)}, not at {precision!r}")
    return load_lowering(target)


def _check_arguments(labels: Sequence[str], preprocessing: Preprocessing, golden: str, max_drop: float) -> None:
    if isinstance(labels, str) or len(labels) < 2:
        raise UsageError("labels: a classifier has at least two, as a list of names")
    for label in labels:
        _converted(label, Label, f"label {label!r}")
    if golden not in get_args(GoldenKind):
        raise UsageError(f"golden {golden!r} is unknown; {did_you_mean(golden, get_args(GoldenKind))}")
    if not 0 <= max_drop <= 100:
        raise UsageError(f"max_drop={max_drop}: points of top-1, between 0 and 100")
    statistics = (*preprocessing.mean, *preprocessing.std)
    if not all(map(math.isfinite, statistics)) or min(preprocessing.std) <= 0:
        raise UsageError("preprocessing: mean and std are finite, std above 0; they are in units of pixels / 255")


def _deploy(module: torch.nn.Module, labels: Sequence[str], preprocessing: Preprocessing) -> Deployed:
    """The graph to lower, tried out on two pictures, so that what can't work fails before any long work."""
    import torch

    from .deployed import Deployed

    input = preprocessing.input
    deployed = Deployed(copy.deepcopy(module).cpu().float(), preprocessing)
    draw = torch.Generator().manual_seed(0)  # of its own: the caller's random numbers stay as they are
    noise = torch.randint(0, 256, (2, input.height, input.width, 3), dtype=torch.uint8, generator=draw)
    try:
        with torch.inference_mode():
            logits = deployed.logits(noise)
    except Exception as fault:
        raise ExportError(
            f"the module fails on float32 [2, 3, {input.height}, {input.width}] ({first_line(fault)}); "
            "it has to take RGB at the size that preprocessing says"
        ) from fault
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        got = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ExportError(f"the module returns {got}, not one tensor of logits [batch, classes]; wrap it")
    if logits.shape[1] != len(labels):
        raise ExportError(f"the module tells {logits.shape[1]} classes apart, but there are {len(labels)} labels")
    if not logits.isfinite().all():
        raise ExportError("the module answers with NaN or infinity; check its weights")
    if bool((logits >= 0).all()) and torch.allclose(logits.sum(1), torch.ones(2), atol=1e-4):
        raise ExportError("the module returns probabilities already; let it return logits, the softmax is added here")
    return deployed


def _describe(
    module: torch.nn.Module,
    target: str,
    precision: str,
    out: Path,
    labels: Sequence[str],
    preprocessing: Preprocessing,
    name: str | None,
    model: Mapping[str, Any] | None,
) -> Manifest:
    found = {"arch": type(module).__name__, "parameters": sum(weight.numel() for weight in module.parameters())}
    described = {
        "format": FORMAT,
        "name": name or out.resolve().name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "target": target,
        "precision": precision,
        "files": {},
        "labels": list(labels),
        "input": msgspec.to_builtins(preprocessing.input),
        "output": msgspec.to_builtins(Output(temperature=float(getattr(module, "temperature", 1.0)))),
        "model": msgspec.to_builtins(_converted({**found, **(model or {})}, Model, "model")),
        "proof": None,
        "versions": _versions("libkd-sdk", "torch", *ENGINES[target].requirements),
    }
    return cast(Manifest, _converted(described, Manifest, "the manifest"))


def _lower(
    lowering: Lowering, deployed: Deployed, manifest: Manifest, quantization: Quantization | None, folder: Path
) -> Lowered | None:
    delegation = lowering.lower(
        deployed,
        signature=_signature(manifest),
        precision=manifest.precision,
        quantization=quantization,
        manifest=embedded(manifest),
        folder=folder,
    )
    if read_manifest(manifest.target, folder) != embedded(manifest):
        raise ExportError(f"{manifest.target} does not keep the manifest; use plainer characters in name and labels")
    return None if delegation is None else Lowered(delegates=delegation.delegates, outside=delegation.outside)


def _prove(
    deployed: Deployed,
    manifest: Manifest,
    folder: Path,
    pictures: proof.Pictures | None,
    kind: GoldenKind,
    tell: Progress,
) -> Proof | None:
    from .deployed import Reference

    reference = Reference(deployed)
    golden = proof.golden(reference, pictures, manifest.input, blend=kind != "pictures")
    session = open_session(manifest.target, folder, _signature(manifest), precision=manifest.precision)
    try:
        _check_difference(golden.max_abs_difference(session), manifest)
        if manifest.precision != "fp32":
            golden = Golden(golden.pixels, session.run(golden.pixels))
        measured = None
        if pictures is not None:
            measured = proof.measure(
                session, reference, pictures, manifest.input, lambda done, total: tell("proving", done, total)
            )
            _check_difference(measured.max_abs_difference, manifest)
    finally:
        session.close()
    if kind != "none":
        golden.write(folder)
    return measured


def _check_difference(difference: float, manifest: Manifest) -> None:
    """Below fp32 single probabilities may move; there it is the answers that count, see `max_drop`."""
    tolerance = TOLERANCE["fp32"] if manifest.precision == "fp32" else 1.0
    if not difference <= tolerance:
        raise ProofError(
            f"{manifest.target} {manifest.precision}: probabilities differ from PyTorch's by {difference:.2g}, "
            f"more than {tolerance:g}; nothing was written. Try another target"
        )


def _versions(*packages: str) -> dict[str, str]:
    """Of those that pip knows; a checkout on the path alone is not among them."""
    found = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _signature(manifest: Manifest) -> Signature:
    return Signature(manifest.input.height, manifest.input.width, len(manifest.labels))


def _converted(value: object, type: Any, what: str) -> Any:
    try:
        return msgspec.convert(value, type)
    except msgspec.ValidationError as fault:
        raise UsageError(f"{what}: {fault}") from fault

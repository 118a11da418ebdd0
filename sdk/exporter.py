"""Any torch classifier -> a bundle: wrap, lower, prove, seal."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import msgspec
from numpy.typing import NDArray

from runtimes.base import ENGINES, Lowering, Signature, first_line, load_lowering, open_session, read_manifest

from . import proof
from .bundle import (
    FORMAT,
    GOLDEN,
    TOLERANCE,
    Bundle,
    Golden,
    Label,
    Manifest,
    Model,
    Output,
    Proof,
    check_replaceable,
    embedded,
    new_folder,
    seal,
)
from .errors import ExportError, ProofError, UsageError, did_you_mean, engine_faults
from .images import ImageSource, Pixels, Preprocessing

if TYPE_CHECKING:
    import torch

    from .deployed import Deployed

GoldenKind: TypeAlias = Literal["blends", "pictures", "none"]
Validation: TypeAlias = Iterable[tuple[ImageSource, int | None]] | tuple[Pixels, Any]
Progress: TypeAlias = Callable[[str, int, int], None]
"""Told the stage ("lowering", "proving"), and how much of how much of it is done."""


def export(
    module: torch.nn.Module,
    *,
    target: str,
    precision: str = "fp32",
    out: str | os.PathLike[str],
    labels: Sequence[str],
    preprocessing: Preprocessing,
    calibration: Iterable[ImageSource] | None = None,
    validation: Validation | None = None,
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
        precision: "fp32".
        out: the bundle's folder. A bundle that is there is replaced once the new one is whole.
        labels: the classes' names, in the order of the logits.
        preprocessing: how a picture becomes what `module` takes.
        calibration: pictures for a precision that needs them; fp32 does not.
        validation: pairs of (picture, label index or None), or uint8 [n, height, width, 3] with n labels or None. On
            these the proof is measured; without them the bundle is not `proved`.
        name: what the bundle is called; by default, like its folder.
        model: `arch`, `parameters`, `teachers`, `trained_on`; the first two are found out if absent.
        golden: which pictures travel along with the expected answers: blends of eight, eight as they are, or none.

    Raises:
        UsageError: an argument that can't be meant.
        ExportError: the module can't be lowered as asked.
        ProofError: the lowered model answers differently (fp32: by more than 1e-4 in a probability).
        EngineMissing: the engine, or torch, is not installed.
        ImageError: a validation picture can't be read.
    """
    out = Path(out)
    lowering = find_lowering(target, precision)
    _check_arguments(labels, preprocessing, calibration, golden)
    check_replaceable(out)
    pictures = None if validation is None else proof.as_pictures(validation, len(labels))
    if golden == "pictures" and pictures is None:
        raise UsageError('golden="pictures" needs validation pictures; give some, or leave it at "blends"')
    deployed = _deploy(module, labels, preprocessing)
    manifest = _describe(module, target, precision, out, labels, preprocessing, name, model)
    tell = progress or (lambda stage, done, total: None)

    with new_folder(out) as folder:
        tell("lowering", 0, 1)
        with engine_faults(f"{target} {precision}"):
            _lower(lowering, deployed, manifest, folder)
        tell("lowering", 1, 1)
        measured = _prove(deployed, manifest, folder, pictures, golden, tell)
        seal(folder, msgspec.structs.replace(manifest, proof=measured))
        Bundle.open(folder)
    return Bundle.open(out)


def find_lowering(target: str, precision: str) -> Lowering:
    """The way to lower for an engine, or the reason why there is none, before any long work.

    Raises:
        UsageError: an unknown target.
        ExportError: an unknown precision.
        EngineMissing: the engine, or torch, is not installed.
    """
    if target not in ENGINES:
        raise UsageError(f"target {target!r} is unknown; {did_you_mean(target, ENGINES)}")
    with engine_faults(target):
        lowering = load_lowering(target)
    if precision not in lowering.PRECISIONS:
        raise ExportError(f"{target} is lowered at {', '.join(lowering.PRECISIONS)}, not at {precision!r}")
    return lowering


def _check_arguments(
    labels: Sequence[str], preprocessing: Preprocessing, calibration: Iterable[ImageSource] | None, golden: str
) -> None:
    if isinstance(labels, str) or len(labels) < 2:
        raise UsageError("labels: a classifier has at least two, as a list of names")
    for label in labels:
        _converted(label, Label, f"label {label!r}")
    if golden not in get_args(GoldenKind):
        raise UsageError(f"golden {golden!r} is unknown; {did_you_mean(golden, get_args(GoldenKind))}")
    if calibration is not None:
        raise UsageError("calibration: fp32 is lowered without; leave it out")
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
        "versions": _versions("libkd-sdk", "torch", *ENGINES[target].packages),
    }
    return cast(Manifest, _converted(described, Manifest, "the manifest"))


def _lower(lowering: Lowering, deployed: Deployed, manifest: Manifest, folder: Path) -> None:
    lowering.lower(
        deployed,
        signature=_signature(manifest),
        precision=manifest.precision,
        manifest=embedded(manifest),
        folder=folder,
    )
    if read_manifest(manifest.target, folder) != embedded(manifest):
        raise ExportError(f"{manifest.target} does not keep the manifest; use plainer characters in name and labels")


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
    with engine_faults(f"{manifest.target} {manifest.precision}"):
        session = open_session(manifest.target, folder, _signature(manifest))
        try:
            _check_difference(golden.max_abs_difference(session), manifest)
            measured = None
            if pictures is not None:
                measured = proof.measure(
                    session, reference, pictures, manifest.input, lambda done, total: tell("proving", done, total)
                )
                _check_difference(measured.max_abs_difference, manifest)
        finally:
            session.close()
    if kind != "none":
        _save(golden, folder)
    return measured


def _check_difference(difference: float, manifest: Manifest) -> None:
    tolerance = TOLERANCE[manifest.precision]
    if not difference <= tolerance:
        raise ProofError(
            f"{manifest.target} {manifest.precision}: probabilities differ from PyTorch's by {difference:.2g}, "
            f"more than {tolerance:g}; nothing was written. Try another target"
        )


def _save(golden: Golden, folder: Path) -> None:
    from safetensors.numpy import save

    tensors: dict[str, NDArray[Any]] = {"pixels": golden.pixels, "probabilities": golden.probabilities}
    (folder / GOLDEN).write_bytes(save(tensors))  # `save_file` would shut out every other user of the device


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

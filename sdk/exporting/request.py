"""The request for an export: its arguments, checked before any long work, and the manifest as far as it is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import msgspec

from runtimes.base import Lowering, first_line
from runtimes.engines import ENGINES, full_title, load_lowering

from ..bundle.manifest import FORMAT, Label, Manifest, Model, Output
from ..errors import ExportError, UsageError, did_you_mean
from ..images import Preprocessing

if TYPE_CHECKING:
    import torch

    from .deployed import Deployed

GoldenKind: TypeAlias = Literal["blends", "pictures", "none"]


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """The arguments of `export` that describe the bundle. See there for their meaning."""

    module: torch.nn.Module
    target: str
    backend: str | None
    precision: str
    out: Path
    labels: Sequence[str]
    preprocessing: Preprocessing
    max_drop: float
    name: str | None
    model: Mapping[str, Any]
    golden: GoldenKind

    def check(self) -> None:
        """Raise `UsageError` for an argument that makes no sense."""
        if isinstance(self.labels, str) or len(self.labels) < 2:
            raise UsageError("labels: a classifier has at least two, as a list of names")
        for label in self.labels:
            _converted(label, Label, f"label {label!r}")
        if self.golden not in get_args(GoldenKind):
            raise UsageError(f"golden {self.golden!r} is unknown; {did_you_mean(self.golden, get_args(GoldenKind))}")
        if not 0 <= self.max_drop <= 100:
            raise UsageError(f"max_drop={self.max_drop}: points of top-1, between 0 and 100")
        mean, std = self.preprocessing.mean, self.preprocessing.std
        if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise UsageError("preprocessing: mean and std are finite, std is above 0; their unit is pixels / 255")

    def deployed(self) -> Deployed:
        """Return the graph to lower, after a trial on two images: a module that can't work fails now.

        Raises:
            ExportError: the module fails, or does not return finite logits [batch, classes].
        """
        import torch

        from .deployed import Deployed
        from .module import changeable_copy, check_module

        check_module(self.module)
        input = self.preprocessing.input
        deployed = Deployed(changeable_copy(self.module), self.preprocessing)
        draw = torch.Generator().manual_seed(0)  # a generator of our own keeps the caller's random state unchanged
        noise = torch.randint(0, 256, (2, input.height, input.width, 3), dtype=torch.uint8, generator=draw)
        try:
            with torch.inference_mode():
                logits = deployed.logits(noise)
        except Exception as fault:
            raise ExportError(
                f"the module fails on float32 [2, 3, {input.height}, {input.width}] ({first_line(fault)}); "
                "it has to take RGB at the size that preprocessing says"
            ) from fault
        _check_logits(logits, len(self.labels))
        return deployed

    def manifest(self) -> Manifest:
        """Return the manifest as far as it is known before the model is lowered: without files and proof.

        Raises:
            UsageError: a value does not fit the format.
        """
        from .module import temperature_of

        found = {
            "arch": type(self.module).__name__,
            "parameters": sum(weight.numel() for weight in self.module.parameters()),
        }
        described = {
            "format": FORMAT,
            "name": self.name or self.out.resolve().name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "target": self.target,
            "backend": self.backend,
            "precision": self.precision,
            "files": {},
            "labels": list(self.labels),
            "input": msgspec.to_builtins(self.preprocessing.input),
            "output": msgspec.to_builtins(Output(temperature=temperature_of(self.module))),
            "model": msgspec.to_builtins(_converted({**found, **self.model}, Model, "model")),
            "proof": None,
            "versions": _versions("libkd-sdk", "torch", *_requirements(self.target, self.backend)),
        }
        return cast(Manifest, _converted(described, Manifest, "the manifest"))


def find_lowering(target: str, precision: str, backend: str | None = None) -> Lowering:
    """Return the module that lowers for an engine. An export that can't work fails here, before any long work.

    Raises:
        UsageError: an unknown target or backend.
        ExportError: an unknown precision.
        EngineMissing: the engine, a library for the backend, or torch, is not installed.
    """
    if target not in ENGINES:
        raise UsageError(f"target {target!r} is unknown; {did_you_mean(target, ENGINES)}")
    backend = find_backend(target, backend)
    engine = ENGINES[target]
    precisions = engine.backends[backend].precisions if backend else engine.precisions
    if precision not in precisions:
        raise ExportError(f"{full_title(target, backend)} is lowered at {', '.join(precisions)}, not at {precision!r}")
    return load_lowering(target, backend)


def find_backend(target: str, backend: str | None) -> str | None:
    """Return the backend to lower for: this one, or the default one of an engine that has backends.

    Raises:
        UsageError: the engine has no backend of this name.
    """
    known = ENGINES[target].backends
    if backend is None:
        return next(iter(known), None)
    if not known:
        having = ", ".join(name for name, engine in ENGINES.items() if engine.backends)
        raise UsageError(f"backend {backend!r}: {target} has no backends, only {having} has; leave it out")
    if backend not in known:
        raise UsageError(f"backend {backend!r} is unknown; {did_you_mean(backend, known)}")
    return backend


def _requirements(target: str, backend: str | None) -> tuple[str, ...]:
    engine = ENGINES[target]
    return engine.requirements + (engine.backends[backend].requirements if backend else ())


def _check_logits(logits: object, classes: int) -> None:
    import torch

    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        got = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ExportError(f"the module returns {got}, not one tensor of logits [batch, classes]; wrap it")
    if logits.shape[1] != classes:
        raise ExportError(f"the module has {logits.shape[1]} classes, but there are {classes} labels")
    if not logits.isfinite().all():
        raise ExportError("the module answers with NaN or infinity; check its weights")
    if bool((logits >= 0).all()) and torch.allclose(logits.sum(1), torch.ones(2), atol=1e-4):
        raise ExportError("the module returns probabilities already; let it return logits, the softmax is added here")


def _versions(*packages: str) -> dict[str, str]:
    """Return the versions of the packages that pip knows; a checkout that is only on the path is not among them."""
    found = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _converted(value: object, type: Any, what: str) -> Any:
    try:
        return msgspec.convert(value, type)
    except msgspec.ValidationError as fault:
        raise UsageError(f"{what}: {fault}") from fault

"""Classify images on a device with `Classifier(bundle).predict(image)`, and make bundles with `export`.

Everything is loaded on first use: importing this package loads neither torch nor an engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import benchmark
    from .bundle import Bundle
    from .bundle.verify import verify
    from .classifier import Classifier
    from .errors import (
        BundleError,
        EngineError,
        EngineMissing,
        ExportError,
        FileError,
        ImageError,
        LibkdError,
        ProofError,
        SignatureError,
        UsageError,
    )
    from .exporting.exporter import export
    from .images import Input, Preprocessing, Resize
    from .prediction import Prediction

__all__ = [
    "Bundle",
    "BundleError",
    "Classifier",
    "EngineError",
    "EngineMissing",
    "ExportError",
    "FileError",
    "ImageError",
    "Input",
    "LibkdError",
    "Prediction",
    "Preprocessing",
    "ProofError",
    "Resize",
    "SignatureError",
    "UsageError",
    "benchmark",
    "export",
    "verify",
]

_HOMES = {
    "bundle": ("Bundle",),
    "bundle.verify": ("verify",),
    "classifier": ("Classifier",),
    "errors": (
        "BundleError",
        "EngineError",
        "EngineMissing",
        "ExportError",
        "FileError",
        "ImageError",
        "LibkdError",
        "ProofError",
        "SignatureError",
        "UsageError",
    ),
    "exporting.exporter": ("export",),
    "images": ("Input", "Preprocessing", "Resize"),
    "prediction": ("Prediction",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "benchmark":
        return import_module(".benchmark", __name__)
    if name in _HOME_OF:
        return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Distillation of an ensemble of light teachers into a small vision transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .run import load_student

__all__ = ["load_student"]


def __getattr__(name: str) -> object:
    # On first use, so that naming the trainer's errors or data does not load all of torch and timm.
    if name == "load_student":
        from .run import load_student

        return load_student
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Distillation of an ensemble of light teachers into a small vision transformer: the training API.

    run = trainer.distill("images/", "run/")
    student, labels, preprocessing = trainer.load_student(run)

`distill` and `compare` do what the commands of the same name do. `load_student` gives what `sdk.export` takes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from runtimes.cores import limit_spinning
from sdk.traces import remove_unused_compiler_cache

from .memory import use_large_pages

if TYPE_CHECKING:
    from .comparison import ComparisonResult, compare
    from .pipeline import distill
    from .progress import Progress, Silent
    from .recipe import Recipe, read_recipe
    from .run import Run, load_student, open_run
    from .settings import Settings

__all__ = [
    "ComparisonResult",
    "Progress",
    "Recipe",
    "Run",
    "Settings",
    "Silent",
    "compare",
    "distill",
    "load_student",
    "open_run",
    "read_recipe",
]

_MODULES = {
    "ComparisonResult": "comparison",
    "Progress": "progress",
    "Recipe": "recipe",
    "Run": "run",
    "Settings": "settings",
    "Silent": "progress",
    "compare": "comparison",
    "distill": "pipeline",
    "load_student": "run",
    "open_run": "run",
    "read_recipe": "recipe",
}

limit_spinning()  # both before torch is imported
use_large_pages()
remove_unused_compiler_cache()


def __getattr__(name: str) -> object:
    # A name is imported when it is first used: naming an error of the trainer must not load torch and timm.
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

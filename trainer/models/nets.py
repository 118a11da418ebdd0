"""All nets of a recipe, created once before a run begins."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import timm

from ..data import Preprocessing
from ..errors import RecipeError
from ..recipe import Recipe
from .student import create_student
from .teacher import create_teacher


def come_along(recipe: Recipe) -> bool:
    """Return whether all nets of a recipe are timm's or ours: a net that the calling program registered is its own."""
    names = [recipe.student.model, *(teacher.model for teacher in recipe.teachers.values())]
    modules = (timm.models.model_entrypoint(name).__module__ for name in names if name and timm.is_model(name))
    return all(module.partition(".")[0] in ("timm", "trainer") for module in modules)


def check_nets(recipe: Recipe, classes: int, preprocessing: Preprocessing) -> None:
    """Create every net of a recipe, and throw it away.

    Args:
        classes: the number of classes in the data.
        preprocessing: the preprocessing of the data.

    Raises:
        RecipeError: some can't be created. The message has the reasons of all, so that missing files are fetched in
            one go.
    """
    reasons: dict[str, None] = {}
    nets: list[Callable[[], object]] = [
        partial(create_student, recipe.student, len(recipe.teachers), classes, preprocessing),
        *(partial(create_teacher, teacher, classes, preprocessing) for teacher in recipe.teachers.values()),
    ]
    for create in nets:
        try:
            create()
        except RecipeError as fault:
            reasons[str(fault)] = None
    if reasons:
        raise RecipeError("; and ".join(reasons))

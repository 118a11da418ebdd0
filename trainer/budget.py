"""Cut a recipe to the available time: fewer epochs and views, by the same share in all stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from msgspec.structs import replace

from .arms import Arm, own_arm
from .errors import RecipeError
from .estimate import estimate
from .pace import Paces
from .recipe import Recipe, StudentRecipe, TeacherRecipe
from .run import Job, is_run, open_run
from .units import Deadline, duration

TIMED_SHARE = 0.015
"""The share of the time that is spent on timing the steps of one net."""

Arms = Callable[[Recipe], Sequence[Arm]]
"""The arms that a run of a recipe trains."""

NetRecipe = TypeVar("NetRecipe", TeacherRecipe, StudentRecipe)


def own_student(recipe: Recipe) -> Sequence[Arm]:
    """Return the single arm that `distill` trains."""
    return [own_arm(recipe)]


def cut_to(deadline: Deadline | None, job: Job, *, arms: Arms = own_student, runs: int = 1) -> Recipe:
    """Return the job's recipe, cut to the time until the deadline.

    Without a deadline it stays whole. If there is a run in the folder already, it is cut as that run was cut when it
    began.

    Args:
        job: the run that is about to start; see `cut`.
        arms, runs: see `cut`.

    Raises:
        RecipeError, OutOfMemory: see `cut`.
    """
    recipe, folder = job.run.recipe, job.run.folder
    if deadline is None:
        return recipe
    if is_run(folder):
        job.progress.tell(
            f"{folder} continues with the epochs and views that it started with; --within is for new runs"
        )
        return as_cut(recipe, open_run(folder).recipe)
    return cut(job, deadline.seconds_left(), arms=arms, runs=runs)


def cut(job: Job, seconds: float, *, arms: Arms = own_student, runs: int = 1) -> Recipe:
    """Return the job's recipe with as many of its epochs and views as fit into the time, and report what was cut.

    Args:
        job: the run that is about to start. Nothing is written into its folder.
        seconds: the time from now on, including the timing that is done here.
        arms: the arms that are trained in a run.
        runs: how many runs share the time, one for each seed.

    Raises:
        RecipeError: one epoch of every stage takes longer than that.
        OutOfMemory: a step needs more memory than the device has.
    """
    recipe, progress, end = job.run.recipe, job.progress, time.perf_counter() + seconds
    progress.tell(f"timing some steps of every stage, to fit the recipe into {duration(seconds)}")
    paces = Paces(job, seconds * TIMED_SHARE)

    def needed(counts: dict[str, int]) -> float:
        candidate = _with_counts(recipe, counts)
        return runs * estimate(candidate, arms(candidate), paces).seconds

    whole = _counts(recipe)
    least = {name: min(1, count) for name, count in whole.items()}
    at_least, left = needed(least), end - time.perf_counter()
    if at_least > left:
        raise RecipeError(
            f"too little time: {duration(max(0.0, left))} are left after loading and timing, and one epoch of every "
            f"stage takes {duration(at_least)}; give more time or a smaller recipe"
        )
    counts = _fitting(whole, lambda counts: needed(counts) <= left)
    if counts == whole:
        progress.tell(f"all of the recipe fits: about {duration(needed(counts))} of {duration(left)}")
    else:
        kept = ", ".join(f"{name} {count} of {whole[name]}" for name, count in counts.items())
        progress.tell(
            f"cut to the time, in epochs and views: {kept}; about {duration(needed(counts))} of {duration(left)}"
        )
    return _with_counts(recipe, counts)


def as_cut(recipe: Recipe, kept: Recipe) -> Recipe:
    """Return `recipe` with the epochs and views of `kept`, the recipe of the run that is there."""
    counts = _counts(kept)
    return _with_counts(recipe, counts) if counts.keys() == _counts(recipe).keys() else recipe


def _counts(recipe: Recipe) -> dict[str, int]:
    """Return everything that is cut: the epochs of every net, and the views."""
    teachers = {f"teacher {name}": it.training.epochs for name, it in recipe.teachers.items()}
    return {**teachers, "views": recipe.views.count, "student": recipe.student.training.epochs}


def _with_counts(recipe: Recipe, counts: dict[str, int]) -> Recipe:
    return replace(
        recipe,
        teachers={name: _with_epochs(it, counts[f"teacher {name}"]) for name, it in recipe.teachers.items()},
        views=replace(recipe.views, count=counts["views"]),
        student=_with_epochs(recipe.student, counts["student"]),
    )


def _with_epochs(net: NetRecipe, epochs: int) -> NetRecipe:
    return replace(net, training=replace(net.training, epochs=epochs))


def _fitting(whole: dict[str, int], fits: Callable[[dict[str, int]], bool]) -> dict[str, int]:
    """Return the largest counts that fit, about the same share of `whole` in every stage.

    A common share is rounded down in every stage. After that, the stage that has lost most gets one more, as long as
    that fits.
    """
    if fits(whole):
        return whole
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(_share(whole, middle)) else (low, middle)
    counts, growing = _share(whole, low), set(whole)
    while growing:
        name = min(growing, key=lambda name: counts[name] / max(1, whole[name]))
        more = {**counts, name: counts[name] + 1}
        if more[name] <= whole[name] and fits(more):
            counts = more
        else:
            growing.discard(name)
    return counts


def _share(whole: dict[str, int], share: float) -> dict[str, int]:
    return {name: min(count, max(1, int(share * count))) for name, count in whole.items()}

"""What the commands that train have in common: their options, and how these become data and a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdk.errors import EngineMissing, UsageError

from .output import remark

if TYPE_CHECKING:
    import torch

    from trainer.data import Dataset
    from trainer.progress import Progress
    from trainer.recipe import Recipe
    from trainer.run import Run, Source

DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="A folder (train/CLASS/*, test/CLASS/*, or CLASS/*), a zip or tar of one, fashion-mnist, cifar10, "
        "cifar100 or fashion-mnist-mini; several times for several archives. A run that is there remembers its own.",
    ),
]
UnlabelledOption = Annotated[
    list[str] | None,
    typer.Option("--unlabelled", help="Folders or archives of pictures that only the teachers answer for."),
]
RootOption = Annotated[Path | None, typer.Option("--root", help="Where a named data set lies, or is downloaded to.")]
OutOption = Annotated[Path, typer.Option("--out", help="The run's folder.")]
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="A TOML file, or one that comes along: small, large, demo.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Replaces the recipe's seed.")]
WithinOption = Annotated[
    str | None,
    typer.Option("--within", help="Cut a new run's epochs and views to what fits into this time: 30m, 1h30m, 90s."),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")]


@contextmanager
def training_extra() -> Iterator[None]:
    """A library that training needs and that is missing becomes one line with the command that installs it."""
    try:
        yield
    except ModuleNotFoundError as fault:
        if (fault.name or "").split(".")[0] in {"sdk", "trainer", "runtimes"}:
            raise
        raise EngineMissing(f"training needs {fault.name}; pip install 'libkd-sdk[train]'") from fault


def prepare(
    out: Path,
    data: list[str] | None,
    root: Path | None,
    recipe: str | None,
    seed: int | None,
    progress: Progress,
    settle: Callable[[Recipe, Dataset], Recipe] = lambda recipe, data: recipe,
    unlabelled: list[str] | None = None,
) -> tuple[Run, Dataset]:
    """The run in `out` and its data; what is left out is what the run that is there remembers.

    `settle` may change the recipe of a new run, or refuse it, before anything is written.
    """
    with training_extra():
        from trainer.run import RECIPE, Source, remembered_source, start_run

    if unlabelled and not data:
        raise UsageError("--unlabelled goes with --data; a run that is there remembers both")
    there = out / RECIPE
    source = remembered_source(out) if not data else Source(tuple(data), root, tuple(unlabelled or ()))
    if source is None:
        raise UsageError(f"{out}: no run there yet; name the pictures by --data")
    chosen, pictures = read(source, recipe or (str(there) if there.exists() else None), seed, progress)
    return start_run(out, settle(chosen, pictures), pictures, source), pictures


class Deadline:
    """The end of the time that `--within` gives, counted from now on.

    Raises:
        UsageError: `within` is no time.
    """

    def __init__(self, within: str | None) -> None:
        started = time.perf_counter()  # torch, which comes with the next line, takes seconds of it
        with training_extra():
            from trainer.units import seconds_of

        try:
            self._end = started + seconds_of(within) if within else None
        except ValueError as fault:
            raise UsageError(f"--within: {fault}") from fault

    def cut(
        self, recipe: Recipe, data: Dataset, out: Path, device: torch.device, progress: Progress, **job: Any
    ) -> Recipe:
        """Return the recipe, cut to the time that is left if there is a deadline (see `trainer.budget.cut`), or as the
        run in `out` was cut when it began."""
        from trainer.budget import as_cut, cut
        from trainer.recipe import read_recipe
        from trainer.run import RECIPE

        if self._end is None:
            return recipe
        if (out / RECIPE).exists():
            progress.tell(f"{out} goes on with the epochs and views that it began with; --within is for a new run")
            return as_cut(recipe, read_recipe(out / RECIPE))
        return cut(recipe, data, self._end - time.perf_counter(), device, progress, **job)


def read(
    source: Source, recipe: str | None, seed: int | None, progress: Progress, labels: float | None = None
) -> tuple[Recipe, Dataset]:
    """A recipe, the one for pictures of their size where none is named, and the pictures."""
    with training_extra():
        import msgspec

        from trainer.data import load
        from trainer.recipe import DataRecipe, read_recipe, recipe_for

    chosen = read_recipe(recipe) if recipe else None
    how = chosen.data if chosen else DataRecipe()
    if labels is not None:
        try:
            how = msgspec.structs.replace(how, labels=labels)
        except ValueError as fault:
            raise UsageError(f"--labels: {fault}") from fault
    pictures = load(source.data, how, root=source.root, unlabelled=source.unlabelled, progress=progress)
    for reason in pictures.skipped:
        remark(f"skipped: {reason}")
    chosen = chosen or recipe_for(pictures.preprocessing.input.height)
    changes = {"data": how} if seed is None else {"data": how, "seed": seed}
    return msgspec.structs.replace(chosen, **changes), pictures


def run_summary(run: Run) -> dict[str, Any]:
    """What is trained in a run, with the figures of each net."""
    stages = [*(f"teachers/{name}" for name in run.recipe.teachers), "student", "arms/plain"]
    return {stage: run.config(stage) for stage in stages if run.has(stage)}

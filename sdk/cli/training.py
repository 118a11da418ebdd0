"""What the commands that train have in common: their options, and how these become data and a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import EngineMissing, UsageError
from .output import remark

if TYPE_CHECKING:
    from trainer.data import Dataset
    from trainer.recipe import Recipe
    from trainer.run import Run
    from trainer.watch import Watch

DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="A folder (train/CLASS/*, test/CLASS/*, or CLASS/*), a zip or tar of one, fashion-mnist or "
        "fashion-mnist-mini; several times for several archives. A run that is there remembers its own.",
    ),
]
RootOption = Annotated[Path | None, typer.Option("--root", help="Where a named data set lies, or is downloaded to.")]
OutOption = Annotated[Path, typer.Option("--out", help="The run's folder.")]
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="A TOML file, or one that comes along: small, large, demo.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Replaces the recipe's seed.")]
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
    watch: Watch,
    check: Callable[[Recipe], None] = lambda recipe: None,
) -> tuple[Run, Dataset]:
    """The run in `out` and its data; what is left out is what the run that is there remembers.

    `check` may refuse the recipe before a new run is written.
    """
    with training_extra():
        import msgspec

        from trainer.data import load
        from trainer.recipe import read_recipe, recipe_for
        from trainer.run import RECIPE, Source, remembered_source, start_run

    source = remembered_source(out) if not data else Source(tuple(data), root)
    if source is None:
        raise UsageError(f"{out}: no run there yet; name the pictures by --data")
    there = out / RECIPE
    chosen = read_recipe(recipe or there) if recipe or there.exists() else None
    pictures = load(source.data, chosen.data if chosen else None, root=source.root, watch=watch)
    for reason in pictures.skipped:
        remark(f"skipped: {reason}")
    chosen = chosen or recipe_for(pictures.preprocessing.input.height)
    if seed is not None:
        chosen = msgspec.structs.replace(chosen, seed=seed)
    check(chosen)
    return start_run(out, chosen, pictures, source), pictures


def run_summary(run: Run) -> dict[str, Any]:
    """What is trained in a run, with the figures of each net."""
    stages = [*(f"teachers/{name}" for name in run.recipe.teachers), "student", "plain"]
    return {stage: run.config(stage) for stage in stages if run.has(stage)}

"""What the commands that train have in common: their options, and how these become data and a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdk.errors import EngineMissing, UsageError

if TYPE_CHECKING:
    from trainer.run import Run
    from trainer.units import Deadline

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


def deadline(within: str | None) -> Deadline | None:
    """Return the end of the time that `--within` gives, counted from now on.

    Call it before torch is imported, which takes seconds of that time.

    Raises:
        UsageError: `within` is not a time.
    """
    from trainer.units import Deadline

    try:
        return Deadline.after(within) if within else None
    except ValueError as fault:
        raise UsageError(f"--within: {fault}") from fault


def run_summary(run: Run) -> dict[str, Any]:
    """Return the records of a run's trained nets by stage, as JSON has them."""
    import msgspec

    return {stage: msgspec.to_builtins(record) for stage, record in run.net_records().items()}

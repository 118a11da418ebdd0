"""The options that several commands have, and the message if training is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from sdk.errors import LibkdError, import_failure

OWN_PACKAGES = ("libkd_sdk", "sdk", "trainer", "runtimes")


def shipped_recipe_names() -> list[str]:
    """Return the names for shells that complete them, quickly: without the trainer's libraries."""
    import trainer

    return sorted(path.stem for path in Path(trainer.__path__[0], "recipes").glob("*.toml"))


BundleArgument = Annotated[
    Path,
    typer.Argument(
        help="The folder of a bundle, or of a run: then it is the run's first bundle whose engine is installed.",
        metavar="BUNDLE|RUN",
    ),
]
DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="A folder (train/CLASS/*, test/CLASS/*, or CLASS/*), a zip or tar file of one, a named dataset: "
        "fashion-mnist, cifar10, cifar100 or fashion-mnist-mini, or shards: a folder that `pack` made, or a pattern "
        "such as 'train-{0000..0099}.tar'. Give it several times for several archives. A run that exists remembers its "
        "own data.",
    ),
]
UnlabelledOption = Annotated[
    list[str] | None,
    typer.Option("--unlabelled", help="A folder or an archive of further images, which only the teachers label."),
]
SkipBadOption = Annotated[
    bool,
    typer.Option(
        "--skip-bad", help="Leave out images that can't be read, even if they are more than one in a hundred."
    ),
]
RootOption = Annotated[
    Path | None, typer.Option("--root", help="The folder that holds a named dataset, or to which it is downloaded.")
]
OutOption = Annotated[
    Path,
    typer.Option(
        "--out",
        help="The folder of the run. To resume a run that was stopped, name its folder again; there is no --resume.",
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        autocompletion=shipped_recipe_names,
        help="A TOML file, or the name of a recipe that comes along; `libkd-sdk recipe list` lists them.",
    ),
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="This seed replaces the one of the recipe.")]
WithinOption = Annotated[
    str | None,
    typer.Option(
        "--within", help="Cut the epochs and views of a new run to what fits into this time, such as 30m, 1h30m or 90s."
    ),
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="The device that computes: auto, cpu, cuda, cuda:1 and so on.")
]
EpochsOption = Annotated[
    int | None,
    typer.Option("--epochs", min=1, help="The epochs of the student, and of every teacher that is trained."),
]
BatchOption = Annotated[int | None, typer.Option("--batch", min=2, help="The batch of all these nets; it is even.")]
LrOption = Annotated[float | None, typer.Option("--lr", help="The highest learning rate of all these nets.")]
SizeOption = Annotated[
    int | None, typer.Option("--size", min=8, max=1024, help="The height and width of the images, in pixels.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the recipe, such as student.depth=6 or teachers.*.training.lr=1e-3. Give it several "
        "times for several keys; docs/recipes.md has all.",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=1024,
        help="The number of threads of the engine. The default is all cores that this process may use.",
    ),
]
MeasuredThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=1024,
        help="The number of threads on a CPU. By default, a short measurement finds the fastest number. A run "
        "continues with the number that it began with.",
    ),
]
PartOption = Annotated[
    str | None,
    typer.Option(
        "--part",
        metavar="I/N",
        help="Do one of N parts of the work, numbered from 1, so that N processes or machines can share it.",
    ),
]

TrustedOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--key",
        help="The public key that must have signed the bundle. Give it several times if one of several must have.",
    ),
]


@contextmanager
def training_extra() -> Iterator[None]:
    """Turn the failed import of a library inside the block into one line with what to do.

    Raises:
        EngineMissing: the library is not installed.
        EngineError: it is installed, and can't be loaded.
    """
    try:
        yield
    except LibkdError:
        raise
    except Exception as fault:
        if (getattr(fault, "name", None) or "").partition(".")[0] in OWN_PACKAGES:
            raise
        raise import_failure("training", fault, "[train]") from fault

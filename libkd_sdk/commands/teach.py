"""The command `libkd-sdk teach`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from sdk.errors import UsageError

from ..options import (
    BatchOption,
    DataOption,
    DeviceOption,
    EpochsOption,
    LrOption,
    MeasuredThreadsOption,
    OutOption,
    RecipeOption,
    RootOption,
    SeedOption,
    SetOption,
    SizeOption,
    SkipBadOption,
    UnlabelledOption,
    training_extra,
)
from ..output import Bars, JsonOption, QuietOption, percent, show_facts, show_json
from ..pages.page import ALWAYS_THE_LARGEST


def teach(
    name: Annotated[str, typer.Argument(help="The name of a teacher in the recipe.")],
    data: DataOption = None,
    unlabelled: UnlabelledOption = None,
    out: OutOption = Path("run"),
    recipe: RecipeOption = None,
    root: RootOption = None,
    skip_bad: SkipBadOption = False,
    seed: SeedOption = None,
    epochs: EpochsOption = None,
    batch: BatchOption = None,
    lr: LrOption = None,
    size: SizeOption = None,
    set: SetOption = None,
    device: DeviceOption = "auto",
    threads: MeasuredThreadsOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Train one teacher of a run.

    When the command is run again, it continues where it stopped. The run keeps the recipe that it started with, for the
    other teachers and the student too.

    Example: libkd-sdk teach conv --data images/ --out run/
    """
    with training_extra():
        from trainer.estimate import tell_estimate
        from trainer.recipe import Recipe
        from trainer.run import teacher_stage
        from trainer.settings import Settings
        from trainer.start import RunRequest, at_work, source_of
        from trainer.train import train_teacher

    def has_teacher(chosen: Recipe) -> None:
        if name not in chosen.teachers:
            raise UsageError(f"the recipe has no teacher {name!r}; it has {', '.join(chosen.teachers)}")

    source = source_of(data, unlabelled or (), root, skip_bad)
    settings = Settings(epochs=epochs, batch=batch, lr=lr, size=size, keys=set or ())
    request = RunRequest(
        out=out, source=source, recipe=recipe, seed=seed, device=device, threads=threads, settings=settings
    )
    with Bars() as bars, at_work(request, bars, check=has_teacher) as job:
        tell_estimate([job], lambda recipe: [], [name])
        train_teacher(job, name)
    record = job.run.teacher_record(name)
    if json:
        show_json({"teacher": name, **msgspec.to_builtins(record)})
    else:
        show_facts(
            f"teacher {name} ({record.model})",
            [
                ("parameters", f"{record.parameters:,}"),
                ("validation top-1", percent(record.results["validation"].top1)),
                ("test top-1", percent(record.results["test"].top1)),
                (ALWAYS_THE_LARGEST, percent(record.results["test"].majority)),
                ("kept in", str(job.run.folder / teacher_stage(name))),
            ],
        )

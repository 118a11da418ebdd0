"""The command `libkd-sdk plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from sdk.errors import UsageError
from trainer.units import duration

from ..options import (
    DataOption,
    DeviceOption,
    MeasuredThreadsOption,
    RecipeOption,
    RootOption,
    SkipBadOption,
    UnlabelledOption,
    training_extra,
)
from ..output import Bars, JsonOption, show_facts, show_json

MEASURED_S = 2.0
"""The seconds that the steps of each net are timed, after the first step."""


def plan(
    data: DataOption = None,
    unlabelled: UnlabelledOption = None,
    images: Annotated[
        int | None, typer.Option("--images", min=2, help="Without --data: the number of training images.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option("--classes", min=2, help="Without --data: the number of classes.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size", min=8, max=1024, help="Without --data: the width and height in pixels of the nets' input."
        ),
    ] = None,
    recipe: RecipeOption = None,
    root: RootOption = None,
    skip_bad: SkipBadOption = False,
    device: DeviceOption = "auto",
    threads: MeasuredThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Estimate what a run costs on this machine: its time, its storage, and from when on the logit store pays off.

    The command starts each stage of the run on a few images, and times some of its steps. The images are those of
    --data. Before there are any, --images, --classes and --size describe them. Nothing is written.

    Example: libkd-sdk plan --images 50000 --classes 100 --size 32
    """
    if data is None and (images is None or classes is None or size is None):
        raise UsageError("name the images by --data, or describe them by --images, --classes and --size")
    if data is not None and (images, classes, size) != (None, None, None):
        raise UsageError("--images, --classes and --size describe images that --data does not name; leave them out")
    with training_extra():
        from pathlib import Path

        from trainer.arms import own_arm
        from trainer.estimate import estimate, imagined, store_cost
        from trainer.pace import Paces
        from trainer.recipe import read_recipe, recipe_for
        from trainer.run import Job, Run
        from trainer.start import at_speed, choose, source_of

    with Bars() as bars, at_speed(device, threads, bars) as torch_device:
        if source := source_of(data, unlabelled or (), root, skip_bad):
            chosen, dataset = choose(source, recipe, bars)
        else:
            chosen = read_recipe(recipe) if recipe else recipe_for(size or 0)
            dataset = imagined(chosen, images=images or 0, classes=classes or 0, size=size or 0)
        paces = Paces(Job(Run(Path(), chosen), dataset, torch_device, bars), MEASURED_S)
        found = estimate(chosen, dataset, [own_arm(chosen)], paces)
        stored = store_cost(chosen, dataset, paces)
    (student,) = found.students.values()
    if json:
        store = stored and {**stored._asdict(), "pays_from_student": stored.students}
        show_json({"teachers": found.teachers, "store": store, "student": student, "seconds": found.seconds})
        return
    side = dataset.preprocessing.input.width
    show_facts(
        f"{len(dataset.train):,} images of {side}x{side}, {len(dataset.labels):,} classes",
        [
            *((f"teacher {name}", f"trained in about {duration(seconds)}") for name, seconds in found.teachers.items()),
            ("logit store", str(stored) if stored else "none: the teachers answer online"),
            ("student", f"trained in about {duration(student)}"),
            ("together", f"about {duration(found.seconds)}"),
        ],
    )

"""The command `libkd-sdk plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from trainer.units import duration

from ..options import DeviceOption, RecipeOption, training_extra
from ..output import JsonOption, remark, show_facts, show_json


def plan(
    images: Annotated[int, typer.Option("--images", min=2, help="The number of training images.")],
    classes: Annotated[int, typer.Option("--classes", min=2, help="The number of classes.")],
    size: Annotated[
        int, typer.Option("--size", min=8, max=1024, help="The width and height in pixels of the nets' input.")
    ],
    recipe: RecipeOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Estimate what a run costs on this machine: its time, its storage, and from when on the logit store pays off.

    The command times a few steps of the recipe's nets on random images. It needs no data and writes nothing.

    Example: libkd-sdk plan --images 50000 --classes 100 --size 32
    """
    with training_extra():
        from trainer.device import pick_device
        from trainer.estimate import estimate
        from trainer.recipe import read_recipe, recipe_for

    chosen = read_recipe(recipe) if recipe else recipe_for(size)
    found = estimate(chosen, images=images, classes=classes, size=size, device=pick_device(device))
    if json:
        store = found.store and {**found.store._asdict(), "pays_from_student": found.store.students}
        show_json({"teachers": found.teachers, "store": store, "student": found.student, "seconds": found.seconds})
        return
    show_facts(
        f"{images:,} images of {size}x{size}, {classes:,} classes",
        [
            *((f"teacher {name}", f"trained in about {duration(seconds)}") for name, seconds in found.teachers.items()),
            ("logit store", str(found.store) if found.store else "none: the teachers answer online"),
            ("student", f"trained in about {duration(found.student)}"),
            ("together", f"about {duration(found.seconds)}"),
        ],
    )
    remark("estimated from a few steps on this device; reading and evaluating the images takes further time")

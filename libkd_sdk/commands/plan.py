"""`libkd-sdk plan`"""

from __future__ import annotations

from typing import Annotated

import typer

from trainer.units import duration

from ..options import DeviceOption, RecipeOption, training_extra
from ..output import JsonOption, remark, show_facts, show_json


def plan(
    pictures: Annotated[int, typer.Option("--pictures", min=2, help="How many training pictures.")],
    classes: Annotated[int, typer.Option("--classes", min=2, help="How many classes.")],
    size: Annotated[int, typer.Option("--size", min=8, max=1024, help="Pixels a side of what the nets see.")],
    recipe: RecipeOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """What a run would cost on this machine: storage, hours, and from when on the logit store is worth it.

    Times a few steps of the recipe's nets on random pictures; nothing is written.

    Example: libkd-sdk plan --pictures 50000 --classes 100 --size 32
    """
    with training_extra():
        from trainer.estimate import estimate
        from trainer.recipe import read_recipe, recipe_for
        from trainer.run import pick_device

    chosen = read_recipe(recipe) if recipe else recipe_for(size)
    found = estimate(chosen, images=pictures, classes=classes, size=size, device=pick_device(device))
    if json:
        store = found.store and {**found.store._asdict(), "pays_from_student": found.store.students}
        show_json({"teachers": found.teachers, "store": store, "student": found.student, "seconds": found.seconds})
        return
    show_facts(
        f"{pictures:,} pictures of {size}x{size}, {classes:,} classes",
        [
            *((f"teacher {name}", f"trained in about {duration(seconds)}") for name, seconds in found.teachers.items()),
            ("logit store", str(found.store) if found.store else "none: the teachers answer online"),
            ("student", f"trained in about {duration(found.student)}"),
            ("together", f"about {duration(found.seconds)}"),
        ],
    )
    remark("reckoned from a few steps on this device; reading and evaluating pictures comes on top")

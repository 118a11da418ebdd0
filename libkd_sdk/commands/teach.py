"""`libkd-sdk teach`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdk.errors import UsageError

from ..options import (
    DataOption,
    DeviceOption,
    OutOption,
    RecipeOption,
    RootOption,
    SeedOption,
    UnlabelledOption,
    prepare,
    training_extra,
)
from ..output import Bars, JsonOption, percent, show_facts, show_json

if TYPE_CHECKING:
    from trainer.data import Dataset
    from trainer.recipe import Recipe


def teach(
    name: Annotated[str, typer.Argument(help="Which of the recipe's teachers.")],
    data: DataOption = None,
    unlabelled: UnlabelledOption = None,
    out: OutOption = Path("run"),
    recipe: RecipeOption = None,
    root: RootOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Train one teacher of a run.

    Example: libkd-sdk teach conv --data pictures/ --out run/
    """
    with training_extra():
        from trainer.run import pick_device
        from trainer.train import train_teacher as train_teacher

    def with_teacher(chosen: Recipe, dataset: Dataset) -> Recipe:
        if name not in chosen.teachers:
            raise UsageError(f"the recipe has no teacher {name!r}; it has {', '.join(chosen.teachers)}")
        return chosen

    torch_device = pick_device(device)
    with Bars() as bars:
        run, dataset = prepare(out, data, root, recipe, seed, bars, settle=with_teacher, unlabelled=unlabelled)
        train_teacher(run, name, dataset, torch_device, bars)
    config = run.config(f"teachers/{name}")
    if json:
        show_json({"teacher": name, **config})
    else:
        results = config["results"]
        show_facts(
            f"teacher {name} ({config['model']})",
            [
                ("parameters", f"{config['parameters']:,}"),
                ("validation top-1", percent(results["validation"]["top1"])),
                ("test top-1", percent(results["test"]["top1"])),
                ("kept in", str(run.folder / "teachers" / name)),
            ],
        )

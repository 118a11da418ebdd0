"""`libkd-sdk compare`"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from .output import Bars, JsonOption, percent, remark, show_json, show_table
from .training import (
    DataOption,
    DeviceOption,
    RecipeOption,
    RootOption,
    UnlabelledOption,
    read,
    training_extra,
)


def compare(
    data: DataOption = None,
    unlabelled: UnlabelledOption = None,
    out: Annotated[Path, typer.Option("--out", help="A folder for the runs and results.json.")] = Path("comparison"),
    recipe: RecipeOption = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds, with commas between them.")] = "0,1,2",
    arms: Annotated[Path | None, typer.Option("--arms", help="A TOML file of further arms; see the README.")] = None,
    labels: Annotated[
        float | None, typer.Option("--labels", help="Use this share of the labels; the rest counts as unlabelled.")
    ] = None,
    root: RootOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """What the teachers are worth: the same student without them, with each alone, and with all, over seeds.

    Run again, it goes on where it stopped.

    Example: libkd-sdk compare --data pictures/ --out comparison/
    """
    with training_extra():
        from trainer.compare import compare as compare_arms
        from trainer.compare import read_changes
        from trainer.run import Source, pick_device

    if not data:
        raise UsageError("name the pictures by --data")
    numbers = _numbers(seeds)
    changes = read_changes(arms) if arms else {}
    torch_device = pick_device(device)
    source = Source(tuple(data), root, tuple(unlabelled or ()))
    with Bars() as bars:
        chosen, pictures = read(source, recipe, None, bars, labels)
        results = compare_arms(out, chosen, pictures, source, numbers, changes, torch_device, bars)
    results = {"data": [Path(name).name for name in data], "recipe": recipe and Path(recipe).stem, **results}
    (out / "results.json").write_text(json_module.dumps(results, indent=2) + "\n", encoding="utf-8")
    if json:
        show_json(results)
    else:
        show(results)
        remark(f"kept in {out / 'results.json'}")


def _numbers(seeds: str) -> list[int]:
    try:
        numbers = [int(word) for word in seeds.split(",")]
    except ValueError as fault:
        raise UsageError(f"--seeds takes whole numbers with commas between them, not {seeds!r}") from fault
    if len(set(numbers)) < len(numbers):
        raise UsageError("--seeds names a seed twice")
    return numbers


def show(results: dict[str, Any]) -> None:
    """The table: mean and spread over the seeds, and the paired difference to the student without teachers."""
    rows = [
        [
            f"teacher {name}",
            f"{row['parameters'] / 1e6:.2f} M",
            _spread(row["mean"], row["deviation"]),
            "",
            percent(row["ece"]),
        ]
        for name, row in results["teachers"].items()
    ]
    rows += [
        [
            f"student, {name}",
            f"{row['parameters'] / 1e6:.2f} M",
            _spread(row["mean"], row["deviation"]),
            _spread(row["difference"], row["difference_deviation"], signed=True),
            percent(row["ece"]),
        ]
        for name, row in results["arms"].items()
    ]
    counts = results["pictures"]
    pictures = f"{counts['train']:,} training pictures" + (
        f" and {counts['unlabelled']:,} without labels" if "unlabelled" in counts else ""
    )
    show_table(
        f"{pictures}, judged by {counts['test']:,} others; {len(results['seeds'])} seeds: mean and standard deviation",
        ["", "parameters", "top-1 %", "difference", "calib. error"],
        rows,
    )


def _spread(mean: float, deviation: float | None, signed: bool = False) -> str:
    text = f"{100 * mean:+.2f}" if signed else f"{100 * mean:.2f}"
    return text if deviation is None else f"{text} ± {100 * deviation:.2f}"

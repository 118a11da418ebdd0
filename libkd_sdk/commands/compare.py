"""`libkd-sdk compare`"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdk.errors import UsageError

from ..options import (
    DataOption,
    Deadline,
    DeviceOption,
    RecipeOption,
    RootOption,
    UnlabelledOption,
    WithinOption,
    read,
    training_extra,
)
from ..output import Bars, JsonOption, percent, remark, show_json, show_table
from ..pages.page import COLOURS, Section, axes, drawing, legend, page, paragraph, table, write_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def compare(
    data: DataOption = None,
    unlabelled: UnlabelledOption = None,
    out: Annotated[Path, typer.Option("--out", help="A folder for the runs and results.json.")] = Path("comparison"),
    recipe: RecipeOption = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds, with commas between them.")] = "0,1,2",
    arms: Annotated[Path | None, typer.Option("--arms", help="A TOML file of further arms; see the README.")] = None,
    within: WithinOption = None,
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
    deadline = Deadline(within)
    with training_extra():
        from trainer.comparison import compare_arms, read_changes, students
        from trainer.run import Source, pick_device

    if not data:
        raise UsageError("name the pictures by --data")
    numbers = _numbers(seeds)
    changes = read_changes(arms) if arms else {}
    torch_device = pick_device(device)
    source = Source(tuple(data), root, tuple(unlabelled or ()))
    with Bars() as bars:
        chosen, pictures = read(source, recipe, None, bars, labels)
        first = out / f"seed-{numbers[0]}"
        chosen = deadline.cut(
            chosen, pictures, first, torch_device, bars, arms=students(pictures, changes), runs=len(numbers)
        )
        results = compare_arms(out, chosen, pictures, source, numbers, changes, torch_device, bars)
    results = {"data": [Path(name).name for name in data], "recipe": recipe and Path(recipe).stem, **results}
    (out / "results.json").write_text(json_module.dumps(results, indent=2) + "\n", encoding="utf-8")
    write_page(out / "comparison.html", comparison_page(results))
    if json:
        show_json(results)
    else:
        show(results)
        remark(f"kept in {out / 'results.json'}; look at {out / 'comparison.html'}")


def _numbers(seeds: str) -> list[int]:
    try:
        numbers = [int(word) for word in seeds.split(",")]
    except ValueError as fault:
        raise UsageError(f"--seeds takes whole numbers with commas between them, not {seeds!r}") from fault
    if len(set(numbers)) < len(numbers):
        raise UsageError("--seeds names a seed twice")
    return numbers


COLUMNS = ("", "parameters", "top-1 %", "difference, 95 %", "calib. error")
PAIRED = "differences in points of top-1, paired over the seeds, with their 95 % interval"
PAIR_COLUMNS = ("", "with", "difference", "95 %")


PAIRS_IN_A_TERMINAL = 15


def show(results: dict[str, Any]) -> None:
    """Show a table of the arms, and one of their pairs unless they are very many."""
    show_table(_title(results), COLUMNS, _rows(results))
    if len(results["pairs"]) <= PAIRS_IN_A_TERMINAL:
        show_table(PAIRED, PAIR_COLUMNS, _pair_rows(results))


def comparison_page(results: dict[str, Any]) -> str:
    """The same as a page, with a picture: every seed a dot, the mean a line, its standard deviation a bar."""
    plain = results["arms"][next(iter(results["arms"]))]["mean"]

    def draw(canvas: Figure) -> None:
        plot = axes(canvas, "top-1 on the test pictures (%)", "")
        plot.axvline(100 * plain, color=COLOURS["faint"][0], linestyle="--", linewidth=1)
        for place, row in enumerate(reversed(results["arms"].values())):
            spread = 100 * (row["deviation"] or 0)
            plot.errorbar(100 * row["mean"], place, xerr=spread, fmt="|", markersize=14, color=COLOURS["blue"][0])
            plot.plot([100 * top1 for top1 in row["top1"]], [place] * len(row["top1"]), "o", color=COLOURS["orange"][0])
        plot.set_yticks(range(len(results["arms"])), labels=list(reversed(results["arms"])))

    drawn = drawing(draw, "top-1 of every arm", (7, 1 + 0.32 * len(results["arms"])))
    return page(
        "Comparison: " + ", ".join(results["data"]),
        [paragraph(_title(results)), paragraph("Differences are paired: seed by seed, with their 95 % interval.")],
        [
            Section("Top-1", [legend([("a seed", "orange"), ("mean and standard deviation", "blue")]), drawn]),
            Section("Figures", [table(COLUMNS, _rows(results))]),
            Section("Differences in points of top-1", [table(PAIR_COLUMNS, _pair_rows(results))]),
        ],
    )


def _rows(results: dict[str, Any]) -> list[list[str]]:
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
    against_plain = {pair["arm"]: pair for pair in results["pairs"] if pair["with"] == next(iter(results["arms"]))}
    return rows + [
        [
            f"student, {name}",
            f"{row['parameters'] / 1e6:.2f} M",
            _spread(row["mean"], row["deviation"]),
            " ".join(_difference(against_plain[name])) if name in against_plain else "",
            percent(row["ece"]),
        ]
        for name, row in results["arms"].items()
    ]


def _pair_rows(results: dict[str, Any]) -> list[list[str]]:
    return [[pair["arm"], pair["with"], *_difference(pair)] for pair in results["pairs"]]


def _difference(pair: dict[str, Any]) -> tuple[str, str]:
    mean, interval = f"{100 * pair['difference']:+.2f}", pair["interval"]
    return mean, f"({100 * interval[0]:+.2f} to {100 * interval[1]:+.2f})" if interval else ""


def _title(results: dict[str, Any]) -> str:
    counts = results["pictures"]
    pictures = f"{counts['train']:,} training pictures" + (
        f" and {counts['unlabelled']:,} without labels" if "unlabelled" in counts else ""
    )
    return (
        f"{pictures}, judged by {counts['test']:,} others; {len(results['seeds'])} seeds: mean and standard deviation, "
        "difference to the student without teachers"
    )


def _spread(mean: float, deviation: float | None) -> str:
    text = f"{100 * mean:.2f}"
    return text if deviation is None else f"{text} ± {100 * deviation:.2f}"

"""The command `libkd-sdk compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtimes.engines import ENGINES
from sdk.errors import ExportError, UsageError
from sdk.files import write_whole
from trainer.units import deadline_of

from ..latency import installed_engine, time_nets
from ..options import (
    BatchOption,
    DataOption,
    DeviceOption,
    EpochsOption,
    LrOption,
    MeasuredThreadsOption,
    RecipeOption,
    RootOption,
    SetOption,
    SizeOption,
    SkipBadOption,
    UnlabelledOption,
    WithinOption,
    training_extra,
)
from ..output import Bars, JsonOption, QuietOption, percent, remark, show_json, show_table
from ..pages.comparison import Latencies, comparison_page, difference, nets, spread, title
from ..pages.page import ALWAYS_THE_LARGEST

if TYPE_CHECKING:
    from trainer.comparison import ComparisonResult


def compare(
    data: DataOption = None,
    unlabelled: UnlabelledOption = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="The folder of the runs and of results.json. To resume a comparison that was stopped, name its folder "
            "again; there is no --resume.",
        ),
    ] = Path("comparison"),
    recipe: RecipeOption = None,
    seeds: Annotated[str, typer.Option("--seeds", help="The seeds, with commas between them.")] = "0,1,2",
    arms: Annotated[
        Path | None, typer.Option("--arms", help="A TOML file of further arms; see docs/comparing.md.")
    ] = None,
    within: WithinOption = None,
    labels: Annotated[
        float | None,
        typer.Option("--labels", help="Use this share of the labels. The other images count as unlabelled."),
    ] = None,
    root: RootOption = None,
    skip_bad: SkipBadOption = False,
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
    """Measure what the teachers are worth: train the same student without them, with each alone, and with all.

    Each of these arms is trained with every seed. When the command is run again, it continues where it stopped.

    Example: libkd-sdk compare --data images/ --out comparison/
    """
    end = deadline_of(within)
    with training_extra():
        import msgspec

        from trainer import parallel
        from trainer.comparison import RESULTS
        from trainer.comparison import compare as compare_students
        from trainer.settings import Settings

    if not data:
        raise UsageError("name the images by --data")
    with Bars() as bars:
        found = compare_students(
            data,
            out,
            recipe=recipe,
            unlabelled=unlabelled or (),
            root=root,
            skip_bad=skip_bad,
            seeds=_numbers(seeds),
            arms=arms,
            labels=labels,
            within=end,
            device=device,
            threads=threads,
            progress=bars,
            settings=Settings(epochs=epochs, batch=batch, lr=lr, size=size, keys=set or ()),
        )
        if not parallel.is_first():
            return
        latencies = _latencies(out, found, bars)
    write_whole(out / "comparison.html", comparison_page(found, latencies))
    if json:
        show_json(msgspec.to_builtins(found))
    else:
        show(found)
        remark(f"kept in {out / RESULTS}; look at {out / 'comparison.html'}")


def _latencies(out: Path, result: ComparisonResult, bars: Bars) -> Latencies | None:
    """Measure the nets of the first seed as bundles; without an engine, or a net that it takes, tell why not."""
    from trainer.comparison import seed_folder
    from trainer.run import open_run

    target = installed_engine()
    if target is None:
        bars.tell("no latencies: no engine is installed; pip install 'libkd-sdk[export]'")
        return None
    run = open_run(out / seed_folder(result.seeds[0]))
    stages = [row.stage for _, row, _ in nets(result)]
    bars.begin(f"bundles for {ENGINES[target].title}, to measure latencies", len(stages))
    try:
        speeds = time_nets(run, stages, target, lambda done, _: bars.advance_to(done))
    except ExportError as fault:
        bars.tell(f"no latencies: {fault}")
        return None
    finally:
        bars.end()
    return Latencies(ENGINES[target].title, speeds)


def _numbers(seeds: str) -> list[int]:
    try:
        return [int(word) for word in seeds.split(",")]
    except ValueError as fault:
        raise UsageError(f"--seeds takes whole numbers with commas between them, not {seeds!r}") from fault


COLUMNS = ("", "parameters", "top-1 %", "difference, 95 %", "calib. error")
PAIRED = "differences in points of top-1, paired over the seeds, with their 95 % interval"
PAIR_COLUMNS = ("", "with", "difference", "95 %")
PAIRS_IN_A_TERMINAL = 15


def show(result: ComparisonResult) -> None:
    """Show a table of the arms, and one of their pairs unless they are very many."""
    rows = _rows(result)
    if result.majority is not None:
        rows.append([ALWAYS_THE_LARGEST, "", f"{100 * result.majority:.2f}", "", ""])
    show_table(title(result), COLUMNS, rows)
    if len(result.pairs) <= PAIRS_IN_A_TERMINAL:
        rows = [[pair.arm, pair.other, *difference(pair)] for pair in result.pairs]
        show_table(PAIRED, PAIR_COLUMNS, rows)
    for caveat in result.caveats:
        remark(f"note: {caveat}")


def _rows(result: ComparisonResult) -> list[list[str]]:
    return [
        [
            name,
            f"{row.parameters / 1e6:.2f} M",
            spread(row),
            " ".join(difference(pair)) if pair else "",
            percent(row.ece),
        ]
        for name, row, pair in nets(result)
    ]

"""The command `libkd-sdk benchmark`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from msgspec.structs import replace

from runtimes.engines import check_runs_here
from sdk import benchmark as benchmarks
from sdk.benchmark import Measurement
from sdk.bundle import Bundle
from sdk.errors import UsageError
from sdk.files import write_whole

from ..options import MeasuredThreadsOption, RootOption, training_extra
from ..output import Bars, JsonOption, QuietOption, percent, remark, show_json, show_table
from ..pages.benchmark import COLUMNS, apart, benchmark_report, called, cells, title, unsteady
from ..pages.charts import import_matplotlib
from ..run_bundles import bundles_of


def benchmark(
    bundles: Annotated[
        list[Path],
        typer.Argument(help="The folders of bundles, or of a run for all of its bundles.", metavar="BUNDLE|RUN..."),
    ],
    validation: Annotated[
        list[str] | None,
        typer.Option(
            "--validation",
            help="Labelled images to measure top-1 on, given like --data. The default is the top-1 of the proof.",
        ),
    ] = None,
    threads: MeasuredThreadsOption = None,
    rounds: Annotated[int, typer.Option("--rounds", help="The number of turns that every bundle gets.")] = 10,
    calls: Annotated[
        int, typer.Option("--calls", help="The number of predictions in a turn; a batch of 32 follows.")
    ] = 20,
    report: Annotated[Path | None, typer.Option("--report", help="Write a page with charts to this file.")] = None,
    root: RootOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Measure bundles side by side: latency, throughput, load time, memory, size and top-1.

    Each bundle, and beside it the engine's own call on the same file, runs in a process of its own, in turns. Latency
    is measured with one image that is ready as an array, throughput with 32 images at once. Memory is that of the
    whole process. Without --threads, the first bundle is tried with all cores that this process may use, with a half of
    them, and so on, and the fastest number counts for all.

    Example: libkd-sdk benchmark run/bundles/* --report speed.html
    """
    opened = [Bundle.open(path) for folder in bundles for path in bundles_of(folder)]
    for bundle in opened:
        check_runs_here(bundle.target, bundle.manifest.backend, str(bundle.path))
    if report is not None:
        _check_report(report)
    with Bars() as bars:
        if threads is None:
            chosen = benchmarks.fastest_threads(opened[0])
            bars.tell(f"on {chosen}")
            threads = chosen.number
        judged = [_top1(bundle, validation, root, threads, bars) for bundle in opened] if validation else None
        bars.begin("measuring", rounds)
        found = benchmarks.measure(
            opened, rounds=rounds, calls=calls, threads=threads, progress=lambda done, _: bars.advance_to(done)
        )
        bars.end()
    if judged is not None:
        judged_on = ", ".join(validation or ())
        found = [replace(it, top1=top1, judged_on=judged_on) for it, top1 in zip(found, judged, strict=True)]
    if report is not None:
        write_whole(report, benchmark_report(found, validation))
    if json:
        show_json(msgspec.to_builtins(found))
        return
    if warning := unsteady(found):
        remark(warning)
    for sentence in apart(found):
        remark(sentence)
    show_table(title(found), ["", *COLUMNS], [row for number, it in enumerate(found, 1) for row in _rows(number, it)])
    if report is not None:
        remark(f"{report}: the same with charts")


def _check_report(path: Path) -> None:
    """Raise an error before anything is measured if the page can't be written."""
    with training_extra():
        import_module("jinja2")
        import_matplotlib()
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"--report {path}: name a file in a folder that exists")


def _top1(bundle: Bundle, sources: list[str], root: Path | None, threads: int | None, bars: Bars) -> float:
    with training_extra():
        from trainer.data import load_labelled

    split = load_labelled(sources, bundle.labels, bundle.input, root=root, progress=bars)
    bars.begin(f"judging {bundle.target} {bundle.precision}", 1)
    top1 = benchmarks.top1(bundle, split.pixels().numpy(), split.labels.tolist(), threads)
    bars.end(f"top-1 {percent(top1)}")
    return top1


def _rows(number: int, measured: Measurement) -> list[list[str]]:
    own = [f"{measured.size_bytes / 1e6:.2f} MB", percent(measured.top1)]
    rows = [[f"{number} {called(measured)}", *cells(measured.speed), *own]]
    if measured.bare is not None:
        rows.append(["  the engine alone", *cells(measured.bare), "", ""])
    return rows

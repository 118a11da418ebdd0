"""`libkd-sdk benchmark`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from msgspec.structs import replace

from .. import benchmark as benchmarks
from ..benchmark import Measurement, Speed
from ..bundle import Bundle
from ..report import write_page
from .output import Bars, JsonOption, percent, remark, show_json, show_table
from .training import RootOption, training_extra

COLUMNS = ("p50", "p95", "p99", "pictures/s", "load", "memory", "size", "top-1")


def benchmark(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles' folders.", metavar="BUNDLE...")],
    validation: Annotated[
        list[str] | None,
        typer.Option("--validation", help="Pictures to be judged by, given like --data; default: what was proved."),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Of each engine; default: all cores.")] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="Turns that every bundle gets.")] = 10,
    calls: Annotated[int, typer.Option("--calls", help="Predictions in a turn; a batch of 32 follows.")] = 20,
    report: Annotated[Path | None, typer.Option("--report", help="Write a page with pictures to this file.")] = None,
    root: RootOption = None,
    json: JsonOption = False,
) -> None:
    """Bundles side by side, and beside their engines called bare: latency, throughput, load time, memory, size, top-1.

    Each runs in a process of its own, in turns. One picture at a time, ready as an array; throughput is of 32 given at
    once. Memory is the whole process's.

    Example: libkd-sdk benchmark run/bundles/* --report speed.html
    """
    opened = [Bundle.open(path) for path in bundles]
    with Bars() as bars:
        judged = [_top1(bundle, validation, root, threads, bars) for bundle in opened] if validation else None
        bars.begin("measuring", rounds)
        found = benchmarks.measure(
            opened, rounds=rounds, calls=calls, threads=threads, progress=lambda done, _: bars.advance_to(done)
        )
        bars.end()
    if judged is not None:
        found = [replace(measured, top1=top1) for measured, top1 in zip(found, judged, strict=True)]
    if report is not None:
        with training_extra():
            from .benchmark_report import benchmark_report

            html = benchmark_report(found, validation)
        write_page(report, html)
    if json:
        show_json(msgspec.to_builtins(found))
        return
    show_table(title(found), ["", *COLUMNS], [row for number, it in enumerate(found, 1) for row in _rows(number, it)])
    if report is not None:
        remark(f"{report}: the same with pictures")


def _top1(bundle: Bundle, sources: list[str], root: Path | None, threads: int | None, bars: Bars) -> float:
    with training_extra():
        from trainer.data import load_labelled

    split = load_labelled(sources, bundle.labels, bundle.input, root=root, watch=bars)
    bars.begin(f"judging {bundle.target} {bundle.precision}", 1)
    top1 = benchmarks.top1(bundle, split.images.numpy(), split.labels.tolist(), threads)
    bars.end(f"top-1 {percent(top1)}")
    return top1


def title(found: list[Measurement]) -> str:
    """What all rows have in common."""
    threads = found[0].threads
    return f"on {threads} thread{'s' if threads > 1 else ''}, one picture at a time, {found[0].speed.calls} calls each"


def _rows(number: int, measured: Measurement) -> list[list[str]]:
    own = [f"{measured.size_bytes / 1e6:.2f} MB", percent(measured.top1)]
    rows = [[f"{number} {called(measured)}", *cells(measured.speed), *own]]
    if measured.bare is not None:
        rows.append(["  the engine alone", *cells(measured.bare), "", ""])
    return rows


def called(measured: Measurement) -> str:
    return f"{measured.name} {measured.target} {measured.precision}"


def cells(speed: Speed) -> list[str]:
    """What `COLUMNS` says, as far as it is of a way to call."""
    return [
        f"{speed.p50_ms:.2f} ms",
        f"{speed.p95_ms:.2f} ms",
        f"{speed.p99_ms:.2f} ms",
        f"{speed.per_second:,.0f}",
        f"{speed.load_ms:.0f} ms",
        "-" if speed.peak_bytes is None else f"{speed.peak_bytes / 1e6:.0f} MB",
    ]

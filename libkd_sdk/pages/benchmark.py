"""What the report of a benchmark says."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from runtimes.engines import ENGINES
from sdk.benchmark import Measurement, Speed

from .page import (
    COLOURS,
    Html,
    Section,
    axes,
    drawing,
    figure,
    figures,
    legend,
    page,
    paragraph,
    percent,
    table,
    tag,
    tiles,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("p50", "p95", "p99", "pictures/s", "load", "memory", "size", "top-1")
ENGINE_COLOURS = dict(zip(ENGINES, ("blue", "orange", "green"), strict=True))


def benchmark_report(found: Sequence[Measurement], validation: Sequence[str] | None) -> str:
    """The page of what `sdk.benchmark.measure` found; `validation` says what top-1 is of, if not of the proof."""
    introduction = [
        paragraph(f"Bundles {title(found)}, on {platform.machine()}, {platform.system()}."),
        _best(found),
    ]
    return page(
        "Benchmark",
        introduction,
        [Section("Figures", _table(found, validation)), Section("Side by side", _charts(found))],
    )


def _best(found: Sequence[Measurement]) -> Html:
    fastest = min(found, key=lambda it: it.speed.p50_ms)
    smallest = min(found, key=lambda it: it.size_bytes)
    facts = [
        ("Fastest", f"{fastest.speed.p50_ms:.2f} ms", called(fastest)),
        ("Smallest", f"{smallest.size_bytes / 1e6:.2f} MB", called(smallest)),
    ]
    judged = [it for it in found if it.top1 is not None]
    if judged:
        best = max(judged, key=lambda it: it.top1 or 0.0)
        facts.append(("Best top-1", percent(best.top1 or 0.0), called(best)))
    return tiles(facts)


def _table(found: Sequence[Measurement], validation: Sequence[str] | None) -> list[Html]:
    rows: list[list[str]] = []
    for number, it in enumerate(found, 1):
        top1 = "-" if it.top1 is None else percent(it.top1)
        own = [f"{it.size_bytes / 1e6:.2f} MB", tag("b", top1)]
        rows.append([str(number), called(it), *cells(it.speed), *own])
        if it.bare is not None:
            rows.append(["", "the engine alone", *cells(it.bare), "", ""])
    pictures = "the pictures of the bundle's proof" if validation is None else ", ".join(validation)
    return [
        table(["no.", "bundle", *COLUMNS], rows, texts=2),
        paragraph(
            "Latency is of one picture that is ready as an array, throughput of 32 given at once, load time from the "
            "path to the first answer, memory the most that the whole process had by then. The engine alone is its own "
            f"call on the same file with as many threads. Top-1 is of {pictures}."
        ),
    ]


def _charts(found: Sequence[Measurement]) -> list[Html]:
    engines = {it.target: ENGINE_COLOURS[it.target] for it in found}
    drawn = [
        _bars(found, "Latency, p50", "ms", lambda it: it.speed.p50_ms, lambda bare: bare.p50_ms),
        _bars(found, "Size", "MB", lambda it: it.size_bytes / 1e6),
    ]
    if all(it.speed.peak_bytes for it in found):
        drawn.append(
            _bars(
                found,
                "Peak memory of the process",
                "MB",
                lambda it: (it.speed.peak_bytes or 0) / 1e6,
                lambda bare: (bare.peak_bytes or 0) / 1e6,
            )
        )
    if any(it.top1 is not None for it in found):
        drawn.insert(0, _scatter(found))
    said = "The numbers are those of the table. A grey line is the engine alone."
    return [paragraph(said), legend((ENGINES[name].title, colour) for name, colour in engines.items()), figures(*drawn)]


def _scatter(found: Sequence[Measurement]) -> Html:
    def draw(canvas: Figure) -> None:
        plot = axes(canvas, "latency, p50 (ms)", "top-1 (%)")
        for number, it in enumerate(found, 1):
            if it.top1 is not None:
                place = (it.speed.p50_ms, 100 * it.top1)
                plot.scatter(*place, color=COLOURS[ENGINE_COLOURS[it.target]][0], s=30)
                plot.annotate(str(number), place, xytext=(5, 4), textcoords="offset points")
        plot.margins(0.15)
        plot.set_xlim(left=0)

    return figure(drawing(draw, "top-1 by latency"), "Top-1 by latency")


def _bars(
    found: Sequence[Measurement],
    name: str,
    unit: str,
    value: Callable[[Measurement], float],
    alone: Callable[[Speed], float] | None = None,
) -> Html:
    def draw(canvas: Figure) -> None:
        plot = axes(canvas, unit, "")
        for row, it in enumerate(found):
            plot.barh(row, value(it), 0.7, color=COLOURS[ENGINE_COLOURS[it.target]][0])
            if alone is not None and it.bare is not None:
                plot.vlines(alone(it.bare), row - 0.42, row + 0.42, color=COLOURS["grey"][0], linewidth=2.5)
        plot.set_yticks(range(len(found)), [str(number) for number in range(1, len(found) + 1)])
        plot.invert_yaxis()
        plot.grid(visible=False, axis="y")

    return figure(drawing(draw, f"{name} of each bundle"), f"{name} ({unit})")


def title(found: Sequence[Measurement]) -> str:
    """What all rows have in common."""
    threads = found[0].threads
    return f"on {threads} thread{'s' if threads > 1 else ''}, one picture at a time, {found[0].speed.calls} calls each"


def called(measured: Measurement) -> str:
    """By its path, which tells bundles of two runs apart."""
    return f"{measured.bundle} ({measured.target} {measured.precision})"


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

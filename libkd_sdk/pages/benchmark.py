"""The page of a benchmark: bundles side by side, and beside their engines called bare."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from runtimes.engines import ENGINES
from sdk.benchmark import STEADY, Measurement, Speed

from .charts import Lane, Mark, Strips, strips
from .page import COLOURS, Cell, Tile, percent, render
from .tradeoff import Point, tradeoff

if TYPE_CHECKING:
    from markupsafe import Markup

Numbered = tuple[int, Measurement]
"""A measurement and the number of its bundle."""

COLUMNS = ("p50", "p95", "p99", "images/s", "load", "memory", "size", "top-1")


def benchmark_report(found: Sequence[Measurement], validation: Sequence[str] | None) -> str:
    """Return the page of what `sdk.benchmark.measure` found.

    Args:
        validation: the sources of the images that top-1 was measured on; None if it comes from the bundles' proofs.
    """
    return render(
        "benchmark.html",
        title="Benchmark",
        summary=f"Bundles {title(found)}, on {platform.machine()}, {platform.system()}. {unsteady(found)}".strip(),
        tiles=_tiles(found),
        rows=[row for number, it in enumerate(found, 1) for row in _rows(number, it)],
        judged_by="the images of the bundle's proof" if validation is None else ", ".join(validation),
        engines=list({_engine_title(it.target): engine_colour(it.target) for it in found}.items()),
        scatter=_scatter(found),
        apart=apart(found),
        key=[
            (str(number), it.bundle, f"{_way(it)}, {it.arch}", engine_colour(it.target))
            for number, it in _comparable(found)
        ],
        charts=_charts(found),
    )


def engine_colour(name: str) -> str:
    """Return the colour that an engine asks for, or grey if the engine or its colour is unknown."""
    wanted = ENGINES[name].colour if name in ENGINES else ""
    return wanted if wanted in COLOURS else "grey"


def _engine_title(name: str) -> str:
    return ENGINES[name].title if name in ENGINES else name


def _tiles(found: Sequence[Measurement]) -> list[Tile]:
    fastest = min(found, key=lambda it: it.speed.p50_ms)
    smallest = min(found, key=lambda it: it.size_bytes)
    tiles = [
        Tile("Fastest", f"{fastest.speed.p50_ms:.2f} ms", called(fastest)),
        Tile("Smallest", f"{smallest.size_bytes / 1e6:.2f} MB", called(smallest)),
    ]
    if judged := [it for _, it in _comparable(found)]:
        best = max(judged, key=lambda it: it.top1 or 0.0)
        tiles.append(Tile("Best top-1", percent(best.top1 or 0.0), called(best)))
    return tiles


def _rows(number: int, it: Measurement) -> list[list[str | Cell]]:
    """Return the row of a bundle, with the accuracy first, and the row of its engine alone."""
    top1 = "-" if it.top1 is None else percent(it.top1)
    size = f"{it.size_bytes / 1e6:.2f} MB"
    rows: list[list[str | Cell]] = [
        [Cell(f"{number} {_way(it)}", note=it.bundle), Cell(top1, strong=True), *cells(it.speed), size]
    ]
    if it.bare is not None:
        rows.append(["the engine alone", "", *cells(it.bare), ""])
    return rows


def _charts(found: Sequence[Measurement]) -> list[tuple[str, Strips]]:
    drawn = [
        ("Latency, p50", _bars(found, "ms", 2, lambda it: it.speed.p50_ms, lambda bare: bare.p50_ms)),
        ("Size", _bars(found, "MB", 2, lambda it: it.size_bytes / 1e6)),
    ]
    if all(it.speed.peak_bytes for it in found):
        memory = _bars(
            found,
            "MB",
            0,
            lambda it: (it.speed.peak_bytes or 0) / 1e6,
            lambda bare: (bare.peak_bytes or 0) / 1e6,
        )
        drawn.append(("Peak memory of the process", memory))
    return drawn


def _scatter(found: Sequence[Measurement]) -> Markup | None:
    points = [Point(number, it.speed, it.top1 or 0.0, engine_colour(it.target)) for number, it in _comparable(found)]
    return tradeoff(points) if points else None


def _comparable(found: Sequence[Measurement]) -> list[Numbered]:
    """Return the bundles whose top-1 comes from the same images as that of most others."""
    return max(_by_images(found), key=len, default=[])


def _by_images(found: Sequence[Measurement]) -> list[list[Numbered]]:
    groups: dict[str | None, list[Numbered]] = {}
    for number, it in enumerate(found, 1):
        if it.top1 is not None:
            groups.setdefault(it.judged_on, []).append((number, it))
    return list(groups.values())


def apart(found: Sequence[Measurement]) -> list[str]:
    """Return a sentence about the bundles of unknown top-1, and one about each top-1 that is of other images."""
    sentences = []
    if unknown := [number for number, it in enumerate(found, 1) if it.top1 is None]:
        sentences.append(
            f"No top-1 is known of {_listed(unknown)}: no labelled images were there at the export. "
            "--validation measures it."
        )
    usual = _comparable(found)
    for group in _by_images(found):
        if group != usual:
            sentences.append(
                f"The top-1 of {_listed([number for number, _ in group])} is of other images "
                f"({group[0][1].judged_on or 'unknown ones'}) than that of {_listed([number for number, _ in usual])} "
                f"({usual[0][1].judged_on or 'unknown ones'}); --validation measures all on the same."
            )
    return sentences


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _bars(
    found: Sequence[Measurement],
    unit: str,
    digits: int,
    value: Callable[[Measurement], float],
    alone: Callable[[Speed], float] | None = None,
) -> Strips:
    lanes = []
    for number, it in enumerate(found, 1):
        marks = [Mark("bar", 0, value(it), engine_colour(it.target))]
        if alone is not None and it.bare is not None:
            marks.append(Mark("tick", alone(it.bare), alone(it.bare), "ink"))
        lanes.append(Lane(f"{number} {_way(it)}", f"{value(it):,.{digits}f}", marks))
    return strips(unit, lanes, zero=True)


def title(found: Sequence[Measurement]) -> str:
    """Return what all rows have in common."""
    threads = found[0].threads
    return f"on {threads} thread{'s' if threads > 1 else ''}, one image at a time, {found[0].speed.calls} calls each"


def unsteady(found: Sequence[Measurement]) -> str:
    """Return a sentence about the bundles whose times vary too much to be compared; empty if there are none."""
    numbers = [str(number) for number, it in enumerate(found, 1) if not it.speed.is_steady]
    if not numbers:
        return ""
    return (
        f"The times of {', '.join(numbers)} vary too much to be compared: their quartiles are more than "
        f"{STEADY - 1:.0%} away from their median. Close other programs, or use fewer threads."
    )


def called(measured: Measurement) -> str:
    """Return a bundle's path, which tells the bundles of two runs apart, with its engine and precision."""
    return f"{measured.bundle} ({measured.target} {measured.precision})"


def _way(measured: Measurement) -> str:
    return f"{_engine_title(measured.target)} {measured.precision}"


def cells(speed: Speed) -> list[str]:
    """Return the cells of `COLUMNS` that belong to one way of calling a model."""
    return [
        f"{speed.p50_ms:.2f} ms{'' if speed.is_steady else ' (unsteady)'}",
        f"{speed.p95_ms:.2f} ms",
        f"{speed.p99_ms:.2f} ms",
        f"{speed.per_second:,.0f}",
        f"{speed.load_ms:.0f} ms",
        "-" if speed.peak_bytes is None else f"{speed.peak_bytes / 1e6:.0f} MB",
    ]

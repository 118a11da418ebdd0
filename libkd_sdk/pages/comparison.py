"""The page of a comparison: every arm with its seeds, and the differences between the arms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from .charts import Lane, Mark, strips
from .page import ALWAYS_THE_LARGEST, Cell, millions, percent, render
from .tradeoff import Point, tradeoff

if TYPE_CHECKING:
    from sdk.benchmark import Speed
    from trainer.comparison import ComparisonResult, Figures, Pair

Row = list[str | Cell]
STUDENT, TEACHER = "blue", "orange"
"""The colours of students and teachers in the plot of accuracy by latency."""


class Latencies(NamedTuple):
    """The speed of each net of a comparison as a bundle, by its folder in a run; `engine` is the engine's title."""

    engine: str
    speeds: Mapping[str, Speed]


def comparison_page(result: ComparisonResult, latencies: Latencies | None = None) -> str:
    """Return the page of a comparison. In its chart every seed is a dot, the mean a line, the deviation a bar."""
    plain = result.arms[first_arm(result)].mean
    return render(
        "comparison.html",
        title="Comparison: " + ", ".join(result.data),
        summary=title(result),
        first=first_arm(result),
        chart=strips("%", [_lane(name, row) for name, row in result.arms.items()], reference=100 * plain),
        rows=[*_rows(result), *_baseline(result)],
        caveats=result.caveats,
        pairs=[[pair.arm, pair.other, _difference(pair)] for pair in result.pairs],
        engine=latencies and latencies.engine,
        scatter=latencies and tradeoff(_points(result, latencies)),
        key=_key(result, latencies) if latencies else [],
        kinds=[("student", STUDENT), ("teacher", TEACHER)],
        is_steady=latencies is None or all(speed.is_steady for speed in latencies.speeds.values()),
    )


def _points(result: ComparisonResult, latencies: Latencies) -> list[Point]:
    """Return a point for each net, with the 95 % interval of its mean accuracy over the seeds."""
    from trainer.comparison import interval_of

    points = []
    for number, (_, row, _) in enumerate(nets(result), 1):
        interval = interval_of(row.top1)
        reach = interval[1] - row.mean if interval else 0.0
        points.append(Point(number, latencies.speeds[row.stage], row.mean, _colour(result, number), reach))
    return points


def _key(result: ComparisonResult, latencies: Latencies) -> list[tuple[str, str, str, str]]:
    return [
        (
            str(number),
            name,
            f"{100 * row.mean:.2f} %, {latencies.speeds[row.stage].p50_ms:.2f} ms",
            _colour(result, number),
        )
        for number, (name, row, _) in enumerate(nets(result), 1)
    ]


def _colour(result: ComparisonResult, number: int) -> str:
    return TEACHER if number <= len(result.teachers) else STUDENT  # as `nets` lists them


def _lane(name: str, row: Figures) -> Lane:
    marks = [Mark("tick", 100 * row.mean, 100 * row.mean, "blue")]
    if row.deviation:
        marks.insert(0, Mark("line", 100 * (row.mean - row.deviation), 100 * (row.mean + row.deviation), "blue"))
    marks += [Mark("dot", 100 * top1, 100 * top1, "orange") for top1 in row.top1]
    return Lane(name, spread(row), marks)


def _rows(result: ComparisonResult) -> list[Row]:
    return [
        [
            name,
            Cell(
                f"{100 * row.mean:.2f}",
                note="" if row.deviation is None else f"± {100 * row.deviation:.2f}",
                strong=True,
            ),
            _difference(pair) if pair else "",
            percent(row.ece),
            millions(row.parameters),
        ]
        for name, row, pair in nets(result)
    ]


def _baseline(result: ComparisonResult) -> list[Row]:
    if result.majority is None:
        return []
    return [[ALWAYS_THE_LARGEST, f"{100 * result.majority:.2f}", "", "", ""]]


def _difference(pair: Pair) -> Cell:
    mean, interval = difference(pair)
    return Cell(mean, note=interval)


def title(result: ComparisonResult) -> str:
    """Return what was trained and judged, in one line."""
    images, seeds = result.images, len(result.seeds)
    unlabelled = f" and {images['unlabelled']:,} without labels" if "unlabelled" in images else ""
    return (
        f"{images['train']:,} training images{unlabelled}, judged by {images['test']:,} others; "
        f"{seeds} seed{'s' if seeds > 1 else ''}: mean and standard deviation, "
        "difference to the student without teachers"
    )


def first_arm(result: ComparisonResult) -> str:
    """Return the name of the arm that the others are compared with: the student without teachers."""
    return next(iter(result.arms))


def nets(result: ComparisonResult) -> list[tuple[str, Figures, Pair | None]]:
    """Return the name and the figures of each teacher and student, and a student's difference from the first arm."""
    differences = {pair.arm: pair for pair in result.pairs if pair.other == first_arm(result)}
    teachers = [(f"teacher {name}", row, None) for name, row in result.teachers.items()]
    students = [(f"student, {name}", row, differences.get(name)) for name, row in result.arms.items()]
    return [*teachers, *students]


def difference(pair: Pair) -> tuple[str, str]:
    """Return the mean difference of two arms in points of top-1, and its 95 % interval, or "" if there is none."""
    interval = f"({100 * pair.interval[0]:+.2f} to {100 * pair.interval[1]:+.2f})" if pair.interval else ""
    return f"{100 * pair.difference:+.2f}", interval


def spread(row: Figures) -> str:
    """Return the mean accuracy over the seeds and its standard deviation, in percent."""
    mean = f"{100 * row.mean:.2f}"
    return mean if row.deviation is None else f"{mean} ± {100 * row.deviation:.2f}"

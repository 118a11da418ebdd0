"""The plot of accuracy by latency: every net is a numbered point, and those that no other net beats are joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from .charts import TICKS, axes, colour, drawing

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sdk.benchmark import Speed

STEPS = (1.0, 2.0, 5.0)
"""The multiples of powers of ten at which the axis of latencies has its numbers."""


class Point(NamedTuple):
    """A net in the plot, whose name is in the key beside it.

    Attributes:
        number: what stands beside the point.
        speed: the point stands at the median of its calls, between bars at their quartiles.
        top1: the accuracy from 0 to 1.
        colour: a name in `page.COLOURS`.
        reach: how far the accuracy may lie away by chance; 0 if that is unknown.
    """

    number: int
    speed: Speed
    top1: float
    colour: str
    reach: float = 0.0


def tradeoff(points: Sequence[Point]) -> Markup:
    """Return the plot as SVG. Bars show the quartiles of the latency, and the range of the accuracy if it is known."""

    def draw(canvas: Figure) -> None:
        plot = axes(canvas, "latency (ms)", "top-1 (%)")
        best = front(points)
        across, up = [it.speed.p50_ms for it in best], [100 * it.top1 for it in best]
        plot.step(across, up, where="post", color=colour("grey"), linewidth=1, zorder=1)
        for it in points:
            place = (it.speed.p50_ms, 100 * it.top1)
            quartiles = [[it.speed.p50_ms - it.speed.p25_ms], [it.speed.p75_ms - it.speed.p50_ms]]
            reach = 100 * it.reach or None
            plot.errorbar(
                *place, xerr=quartiles, yerr=reach, color=colour(it.colour), fmt="o", markersize=5, elinewidth=0.9
            )
            plot.annotate(str(it.number), place, xytext=(5, 4), textcoords="offset points")
        plot.margins(y=0.15)
        _logarithmic(plot, min(it.speed.p25_ms for it in points), max(it.speed.p75_ms for it in points))

    return drawing(draw, "top-1 by latency")


def front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other one beats, the fastest first: each is more accurate than all faster ones."""
    best: list[Point] = []
    for it in sorted(points, key=lambda it: (it.speed.p50_ms, -it.top1)):
        if not best or it.top1 > best[-1].top1:
            best.append(it)
    return best


def _logarithmic(plot: Axes, low: float, high: float) -> None:
    """Make the x axis logarithmic, from a round number below all values to one above them."""
    from matplotlib.ticker import FixedLocator, NullLocator

    rounds = [step * 10.0**power for power in range(-5, 7) for step in STEPS]
    first = max((value for value in rounds if value < low), default=rounds[0])
    last = min((value for value in rounds if value > high), default=rounds[-1])
    ticks = [value for value in rounds if first <= value <= last]
    if len(ticks) > TICKS:
        ticks = [value for value in ticks if value in rounds[:: len(STEPS)]]  # the powers of ten
    formatter = plot.xaxis.get_major_formatter()
    plot.set_xscale("log")
    plot.xaxis.set_major_locator(FixedLocator(ticks))
    plot.xaxis.set_minor_locator(NullLocator())
    plot.xaxis.set_major_formatter(formatter)
    plot.set_xlim(first, last)

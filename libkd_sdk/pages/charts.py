"""Charts for the pages: matplotlib as SVG, and strips, which are rows of marks that HTML alone can draw.

Both take their colours from the page, so that they suit light and dark paper.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import TYPE_CHECKING, Literal, NamedTuple

from .page import COLOURS

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TICKS, STEPS = 6, (1, 2, 2.5, 5, 10)
"""An axis has at most so many numbers, at multiples of one of these steps."""

_FOLDER = "MPLCONFIGDIR"
_MATPLOTLIB = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
    "text.color": COLOURS["ink"][0],
    "axes.labelcolor": COLOURS["ink"][0],
    "axes.edgecolor": COLOURS["faint"][0],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": COLOURS["line"][0],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["faint"][0],
    "ytick.color": COLOURS["faint"][0],
    "xtick.labelcolor": COLOURS["ink"][0],
    "ytick.labelcolor": COLOURS["ink"][0],
    "font.size": 9,
    "hatch.linewidth": 0.8,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
}


def colour(name: str) -> str:
    """Return the colour that matplotlib draws with; `drawing` replaces it by the reader's own."""
    return COLOURS[name][0]


def rgb(name: str) -> tuple[float, float, float]:
    """Return the red, green and blue of a colour on light paper, from 0 to 1."""
    red, green, blue = (int(colour(name)[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue


def drawing(draw: Callable[[Figure], None], description: str, inches: tuple[float, float] = (3.5, 2.5)) -> Markup:
    """Return what `draw` puts on a matplotlib figure as SVG, in the colours of the reader's paper.

    The text is as large as the page's at about 3.5 inches, which is a phone's width. Names that users chose do not
    belong in a figure, because matplotlib has not the letters of every language: use a legend or strips for them.
    """
    from markupsafe import Markup, escape

    import_matplotlib()
    from matplotlib import style
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with style.context(["default", _MATPLOTLIB]):
        canvas = Figure(figsize=inches, layout="constrained")
        draw(canvas)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        canvas.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)  # as large as the page has room
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every figure, and nothing points at them
    for name, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{name})")
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1))


def import_matplotlib() -> None:
    """Import matplotlib without a trace: by default it keeps a list of the machine's fonts in the user's folders.

    The list goes into a temporary folder, which is deleted at once, unless the environment names a folder for it.
    """
    with ExitStack() as stack:
        if "matplotlib" not in sys.modules and _FOLDER not in os.environ:
            os.environ[_FOLDER] = stack.enter_context(tempfile.TemporaryDirectory())
            stack.callback(os.environ.pop, _FOLDER)
        import_module("matplotlib.style")
        import_module("matplotlib.figure")


def axes(canvas: Figure, x: str, y: str) -> Axes:
    """Return the only axes of a figure, with these labels and few, short numbers."""
    found = canvas.subplots()
    found.set_xlabel(x)
    found.set_ylabel(y)
    return few_ticks(found)


def few_ticks(plot: Axes) -> Axes:
    """Give both axes at most `TICKS` numbers without trailing zeros, so that there is room for the labels."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for axis in (plot.xaxis, plot.yaxis):
        axis.set_major_locator(MaxNLocator(TICKS - 1, steps=STEPS))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    return plot


class Mark(NamedTuple):
    """Something on a strip, at values of the strip's axis: from `start` to `end`, or a point where both are equal."""

    kind: Literal["bar", "dot", "line", "tick"]
    start: float
    end: float
    colour: str


class Lane(NamedTuple):
    """A row of strips: a name, the number to read, and the marks."""

    name: str
    value: str
    marks: Sequence[Mark]


class PlacedMark(NamedTuple):
    """A mark in percent of the strip's width."""

    kind: str
    left: float
    width: float
    colour: str


class PlacedLane(NamedTuple):
    """A lane whose marks are placed."""

    name: str
    value: str
    marks: list[PlacedMark]


class Strips(NamedTuple):
    """Lanes under one another on a common axis. Their text has the page's size on every screen.

    Attributes:
        ticks: the axis' numbers and their places in percent of the width.
        reference: the place of a dashed line through all lanes, or None.
    """

    unit: str
    lanes: list[PlacedLane]
    ticks: list[tuple[str, float]]
    reference: float | None


def strips(unit: str, lanes: Sequence[Lane], *, reference: float | None = None, zero: bool = False) -> Strips:
    """Place lanes on an axis that holds all their marks, and zero if that is asked for."""
    from matplotlib.ticker import MaxNLocator

    ends = [end for lane in lanes for mark in lane.marks for end in (mark.start, mark.end)]
    ends += [0.0] if zero else []
    ends += [] if reference is None else [reference]
    low, high = min(ends), max(ends)
    margin = 0.04 * (high - low) or abs(high) * 0.04 or 1.0
    first, last = low if zero else low - margin, high + margin

    def place(value: float) -> float:
        return round(100 * (value - first) / (last - first), 2)

    ticks = [
        float(tick) for tick in MaxNLocator(TICKS - 1, steps=STEPS).tick_values(first, last) if first <= tick <= last
    ]
    return Strips(
        unit=unit,
        lanes=[
            PlacedLane(
                lane.name,
                lane.value,
                [
                    PlacedMark(mark.kind, place(mark.start), round(place(mark.end) - place(mark.start), 2), mark.colour)
                    for mark in lane.marks
                ],
            )
            for lane in lanes
        ],
        ticks=[(f"{tick:.6g}", place(tick)) for tick in ticks],
        reference=None if reference is None else place(reference),
    )

"""The reliability of a student on a page: how often it is right, by how sure it is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from trainer.caveats import FEWEST
from trainer.findings import Findings, Reliability

from .charts import colour, drawing, few_ticks
from .page import percent

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

FEW = 30
"""A share of fewer images says little: its 95 % interval is up to 36 points wide. It is drawn hatched or pale."""
FEWEST_IN_ALL = 100
"""With fewer test images, the bins of a diagram hold a handful each, and it is not drawn."""


class Calibration(NamedTuple):
    """A reliability diagram, its caption, and in how many of its bins there are few images."""

    caption: str
    drawing: Markup
    few: int
    filled: int


def diagrams(run: Findings) -> list[Calibration]:
    """Return the diagrams before and after the temperature; none if there are too few test images, one without it."""
    if run.confusion.sum() < FEWEST_IN_ALL:
        return []
    shown = [
        (run.before, "Before its temperature was fitted"),
        (run.after, f"After: temperature {run.temperature:.2f}"),
    ]
    if run.temperature == 1:
        shown = [(run.after, "Without a temperature")]
    return [
        Calibration(
            f"{name}; calibration error {percent(bins.ece)}",
            drawing(partial(_draw, bins=bins), name, (3.9, 3.7)),
            int(((bins.count > 0) & (bins.count < FEW)).sum()),
            int((bins.count > 0).sum()),
        )
        for bins, name in shown
    ]


def _draw(canvas: Figure, bins: Reliability) -> None:
    from matplotlib.ticker import MaxNLocator

    upper, lower = canvas.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width = 1 / len(bins.count)
    middles = (np.arange(len(bins.count)) + 0.5) * width
    blue, orange, faint = (colour(name) for name in ("blue", "orange", "faint"))
    upper.plot([0, 1], [0, 1], "--", color=faint, linewidth=1)
    shown = bins.count >= FEWEST
    solid, few = bins.count >= FEW, shown & (bins.count < FEW)
    upper.bar(middles[solid], bins.accuracy[solid], 0.88 * width, color=blue, alpha=0.75)
    hatched = {"facecolor": "none", "edgecolor": blue, "hatch": "/////", "linewidth": 0.8, "alpha": 0.75}
    upper.bar(middles[few], bins.accuracy[few], 0.88 * width, **hatched)
    reach = 0.44 * width
    upper.hlines(bins.confidence[shown], middles[shown] - reach, middles[shown] + reach, color=orange, linewidth=2)
    lower.bar(middles, bins.count, 0.88 * width, color=colour("grey"))
    few_ticks(upper)
    few_ticks(lower).yaxis.set_major_locator(MaxNLocator(2, integer=True))
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    lower.set(xlabel="confidence", ylabel="images")
    lower.yaxis.set_major_formatter("{x:,.0f}")
    canvas.align_ylabels()

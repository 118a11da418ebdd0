"""Sentences to put beside accuracies that rest on little, and the reach of chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .comparison import Pair
    from .evaluate import Score

FEWEST = 10
"""With fewer test images, the accuracy of a class says next to nothing: one image is more than ten points."""
NAMED = 3


def caveats(nets: Mapping[str, Score], labels: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Return a sentence for each net that has learned nothing, and one on classes with few test images.

    Args:
        nets: the scores of nets on the test images, by the name of the net.
        labels: the names of the classes.
        counts: the number of test images in each class.
    """
    found = [sentence for name, score in nets.items() if (sentence := _learned_nothing(name, score, len(labels)))]
    few = sorted((count, label) for label, count in zip(labels, counts, strict=True) if count < FEWEST)
    if few:
        some = ", ".join(f"{label} {count}" for count, label in few[:NAMED]) + (", ..." if len(few) > NAMED else "")
        have = f"{len(few)} of {len(labels)} classes have" if len(labels) > 1 else "the class has"
        found.append(f"{have} fewer than {FEWEST} test images ({some}): their accuracies say little")
    return found


def _learned_nothing(name: str, score: Score, classes: int) -> str:
    if score.answered == 1 < classes:
        return f"{name} gives one answer to all {score.images:,} test images: it does not tell the classes apart"
    if score.majority is not None and round((score.top1 - score.majority) * score.images) <= 0:
        return f"{name} is no better than a model that always answers the largest class ({score.majority:.1%})"
    return ""


def reach(top1: float, images: int) -> float:
    """Return how far chance reaches: half the width of the 95 % interval of an accuracy on that many images."""
    return 1.96 * math.sqrt(top1 * (1 - top1) / images)


def uncertain(pairs: Sequence[Pair]) -> str:
    """Return a sentence on the differences that are smaller than the reach of their interval, "" if there are none."""
    judged = [pair for pair in pairs if pair.interval]
    within = [pair for pair in judged if pair.interval and pair.interval[0] <= 0 <= pair.interval[1]]
    if not within:
        return ""
    return (
        f"{len(within)} of {len(judged)} differences are smaller than the reach of their interval: chance may explain "
        "them; more seeds, or more test images, would tell"
    )

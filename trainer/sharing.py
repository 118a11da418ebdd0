"""The processes that can train together: what the lanes and the batches of a recipe allow."""

from __future__ import annotations

from .counts import Counts
from .lanes import Lanes
from .recipe import Recipe


def refusal(recipe: Recipe, counts: Counts, processes: int, *, is_streamed: bool = False) -> str:
    """Return why that many processes can't train the nets of a recipe together, and what would fit; "" if they can.

    Args:
        is_streamed: whether the images are in shards.
    """
    lanes, trained = Lanes(recipe.data.lanes), [it.training for it in recipe.teachers.values() if it.training.epochs]
    batches = [(it.batch, counts.train) for it in trained] + [(recipe.student.training.batch, counts.students)]
    return next(filter(None, (lanes.refusal(processes, *batch, is_streamed=is_streamed) for batch in batches)), "")


def most_trainers(recipe: Recipe, counts: Counts, processes: int, *, is_streamed: bool = False) -> int:
    """Return how many of the processes can train the nets of a recipe together; see `refusal`."""
    most = min(processes, recipe.data.lanes)
    return next(
        (count for count in range(most, 1, -1) if not refusal(recipe, counts, count, is_streamed=is_streamed)), 1
    )

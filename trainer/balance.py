"""Classes of uneven size: how much an image counts in the loss, so that rare classes are learned too."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .recipe import Balance

UNEVEN = 5
"""With `balance = "auto"`, images are weighed if the largest class has more than this many times the images of the
smallest one."""


def image_weights(counts: Tensor, balance: Balance) -> Tensor | None:
    """Return the weight of an image of each class in the loss for the labels, [classes]; None if all count the same.

    The weights of all labelled images have the mean 1. What is unlabelled, and what teachers teach, is not weighed.

    Args:
        counts: the number of labelled images of each class, int64 [classes].
    """
    if balance == "never" or (balance == "auto" and counts.max() <= UNEVEN * counts.min()):
        return None
    return counts.sum() / (len(counts) * counts.clamp(min=1))


def describe_balance(counts: Tensor, names: Sequence[str], balance: Balance) -> str:
    """Return a line on what is done about uneven classes, "" if they are even enough; see `image_weights`."""
    few, many = int(counts.argmin()), int(counts.argmax())
    if counts[many] <= UNEVEN * counts[few]:
        return ""
    sizes = f"uneven classes: {names[many]} has {counts[many]:,} images to train on, {names[few]} {counts[few]:,}"
    if balance == "never":
        return f"{sizes}; every image counts the same (data.balance)"
    return f"{sizes}; images of rare classes count more in the loss (data.balance)"

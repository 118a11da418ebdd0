"""Parity and accuracy of a lowered model against its reference, on pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from runtimes.base import Session

from ..bundle.golden import Golden
from ..bundle.manifest import Proof
from ..errors import UsageError
from ..images import ImageSource, Input, Pixels, pixels

Pictures: TypeAlias = Sequence[tuple[ImageSource, int | None]]
"""Pictures with the index of their label, or None where nobody knows it."""

BATCH = 32
GOLDEN_PICTURES = 8
BLENDED = 8


def as_pictures(validation: Iterable[tuple[ImageSource, int | None]] | tuple[Pixels, Any], classes: int) -> Pictures:
    """Pairs of (picture, label index or None) from such pairs, or from uint8 [n, height, width, 3] and their labels.

    Raises:
        UsageError: there are none, the lengths differ, or a label is no index of a class.
    """
    if isinstance(validation, tuple) and len(validation) == 2 and isinstance(validation[0], np.ndarray):
        images, labels = validation
        if images.ndim != 4:
            raise UsageError(f"validation: an array of pictures is [n, height, width, 3], not {list(images.shape)}")
        labels = [None] * len(images) if labels is None else list(labels)
        if len(images) != len(labels):
            raise UsageError(f"validation: {len(images)} pictures but {len(labels)} labels; give one for each")
        validation = zip(images, labels, strict=True)
    pictures = [_pair(entry) for entry in validation]
    if not pictures:
        raise UsageError("validation: no pictures; leave it out to export without a proof")
    for _, label in pictures:
        if label is not None and not 0 <= label < classes:
            raise UsageError(f"validation: label {label} is no class; {classes} labels count from 0 to {classes - 1}")
    return pictures


def measure(
    session: Session,
    reference: Session,
    pictures: Pictures,
    input: Input,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Proof:
    """Run both on every picture. `progress` is told how many of how many are done.

    Raises:
        ImageError: a picture can't be read.
        EngineFailed: the engine gave up.
    """
    difference, answers, expected = 0.0, [], []
    for start in range(0, len(pictures), BATCH):
        batch = np.stack([pixels(image, input) for image, _ in pictures[start : start + BATCH]])
        ours, theirs = session.run(batch), reference.run(batch)
        difference = max(difference, _worst(ours, theirs))
        answers.append(ours.argmax(1))
        expected.append(theirs.argmax(1))
        progress(start + len(batch), len(pictures))
    answer, reference_answer = np.concatenate(answers), np.concatenate(expected)
    known = np.array([label is not None for _, label in pictures])
    truth = np.array([label for _, label in pictures if label is not None])
    return Proof(
        images=len(pictures),
        max_abs_difference=difference,
        top1_agreement=float((answer == reference_answer).mean()),
        top1=float((answer[known] == truth).mean()) if known.any() else None,
        reference_top1=float((reference_answer[known] == truth).mean()) if known.any() else None,
    )


def golden(reference: Session, pictures: Pictures | None, input: Input, *, blend: bool) -> Golden:
    """Eight pictures with the reference's answers: blends of eight others each, so that nobody's picture travels along.

    Smooth noise, the same every time, stands in where there are no pictures, or too few to blend.
    """
    if pictures is None or (blend and len(pictures) < BLENDED):
        sources: Sequence[ImageSource] = _noise()
    else:
        count = min(len(pictures), GOLDEN_PICTURES * BLENDED if blend else GOLDEN_PICTURES)
        sources = [pictures[round(index)][0] for index in np.linspace(0, len(pictures) - 1, count)]
    chosen = np.stack([pixels(source, input) for source in sources])
    if blend:
        draw = np.random.default_rng(0)
        groups = [chosen[draw.permutation(len(chosen))[:BLENDED]] for _ in range(GOLDEN_PICTURES)]
        chosen = np.stack([group.mean(0).round().astype(np.uint8) for group in groups])
    return Golden(chosen, reference.run(chosen))


def _pair(entry: Any) -> tuple[ImageSource, int | None]:
    try:
        image, label = entry
        return image, None if label is None else int(label)
    except (TypeError, ValueError) as fault:
        raise UsageError(
            "validation: pairs of (picture, label index or None), or an array of pictures and one of labels"
        ) from fault


def _worst(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """The largest difference; 1.0, the largest possible, if the engine answers with anything but numbers."""
    return float(np.nan_to_num(np.abs(ours - theirs).max(), nan=1.0))


def _noise() -> list[Pixels]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (4, 4, 3), np.uint8) for _ in range(GOLDEN_PICTURES * BLENDED)]

"""The comparison of a lowered model with its reference on images: parity and accuracy."""

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

LabelledImages: TypeAlias = Sequence[tuple[ImageSource, int | None]]
"""Images with the index of their label, or None if it is unknown."""

BATCH = 32
GOLDEN_IMAGES = 8
"""The number of blended or unchanged images; `_contrasty` adds four."""
BLENDED = 8


def labelled_images(
    validation: Iterable[tuple[ImageSource, int | None]] | tuple[Pixels, Any], classes: int
) -> LabelledImages:
    """Return pairs of (image, label index or None), from such pairs or from uint8 [n, height, width, 3] and labels.

    Raises:
        UsageError: there are no images, the lengths differ, or a label is not the index of a class.
    """
    if isinstance(validation, tuple) and len(validation) == 2 and isinstance(validation[0], np.ndarray):
        images, labels = validation
        if images.ndim != 4:
            raise UsageError(f"validation: an array of images is [n, height, width, 3], not {list(images.shape)}")
        labels = [None] * len(images) if labels is None else list(labels)
        if len(images) != len(labels):
            raise UsageError(f"validation: {len(images)} images but {len(labels)} labels; give one for each")
        validation = zip(images, labels, strict=True)
    pairs = [_pair(entry) for entry in validation]
    if not pairs:
        raise UsageError("validation: no images; leave it out to export without a proof")
    for _, label in pairs:
        if label is not None and not 0 <= label < classes:
            raise UsageError(f"validation: label {label} is not a class; labels are between 0 and {classes - 1}")
    return pairs


def measure(
    session: Session,
    reference: Session,
    images: LabelledImages,
    input: Input,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Proof:
    """Run both on every image and compare. `progress` is told the number of images that are done, and of all.

    Raises:
        ImageError: an image can't be read.
        EngineError: the engine failed.
    """
    difference, answers, expected = 0.0, [], []
    for start in range(0, len(images), BATCH):
        batch = np.stack([pixels(image, input) for image, _ in images[start : start + BATCH]])
        ours, theirs = session.run(batch), reference.run(batch)
        difference = float(np.maximum(difference, largest_difference(ours, theirs)))  # unlike max, it keeps NaN
        answers.append(ours.argmax(1))
        expected.append(theirs.argmax(1))
        progress(start + len(batch), len(images))
    answer, reference_answer = np.concatenate(answers), np.concatenate(expected)
    known = np.array([label is not None for _, label in images])
    truth = np.array([label for _, label in images if label is not None])
    return Proof(
        images=len(images),
        max_abs_difference=difference,
        top1_agreement=float((answer == reference_answer).mean()),
        top1=float((answer[known] == truth).mean()) if known.any() else None,
        reference_top1=float((reference_answer[known] == truth).mean()) if known.any() else None,
    )


def golden(reference: Session, images: LabelledImages | None, input: Input, *, blend: bool, contrasty: bool) -> Golden:
    """Return eight images, and with `contrasty` four more, with the reference's answers.

    With `blend`, each of the eight is the mean of eight validation images, so that a product does not carry anybody's
    image. If there are no images, or too few to blend, smooth noise is used, the same every time. The contrasty ones
    drive the activations far out, where 16-bit numbers may overflow.
    """
    if images is None or (blend and len(images) < BLENDED):
        sources: Sequence[ImageSource] = _noise()
    else:
        count = min(len(images), GOLDEN_IMAGES * BLENDED if blend else GOLDEN_IMAGES)
        sources = [images[round(index)][0] for index in np.linspace(0, len(images) - 1, count)]
    chosen = np.stack([pixels(source, input) for source in sources])
    if blend:
        draw = np.random.default_rng(0)
        groups = [chosen[draw.permutation(len(chosen))[:BLENDED]] for _ in range(GOLDEN_IMAGES)]
        chosen = np.stack([group.mean(0).round().astype(np.uint8) for group in groups])
    if contrasty:
        chosen = np.concatenate([chosen, _contrasty(input.height, input.width)])
    return Golden(chosen, reference.run(chosen))


def _pair(entry: Any) -> tuple[ImageSource, int | None]:
    try:
        image, label = entry
        return image, None if label is None else int(label)
    except (TypeError, ValueError) as fault:
        raise UsageError(
            "validation: pairs of (image, label index or None), or an array of images and one of labels"
        ) from fault


def extremes(input: Input) -> Pixels:
    """Return uint8 [8, height, width, 3]: images of one colour each, the corners of RGB.

    Whatever a layer computes from the mean colour of a region is largest and smallest on one of them.
    """
    corners = np.indices((2, 2, 2)).reshape(3, 8).T * 255
    return np.broadcast_to(corners[:, None, None], (8, input.height, input.width, 3)).astype(np.uint8)


def largest_difference(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Return the largest distance of a probability; NaN, which is within no tolerance, if one of them has NaN."""
    return float(np.abs(ours - theirs).max())


def moved(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Return the largest share of an image's probabilities that lies with other classes.

    Unlike the largest difference, it does not become small if the probabilities are spread over many classes.
    """
    return float(np.abs(ours - theirs).sum(1).max()) / 2


def _contrasty(height: int, width: int) -> Pixels:
    """Return uint8 [4, height, width, 3]: black, white, a board of single pixels, and noise."""
    board = (np.indices((height, width)).sum(0) % 2 * 255).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return np.stack([np.zeros_like(noise), np.full_like(noise, 255), np.repeat(board[..., None], 3, axis=2), noise])


def _noise() -> list[Pixels]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (4, 4, 3), np.uint8) for _ in range(GOLDEN_IMAGES * BLENDED)]

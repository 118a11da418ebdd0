"""The check around every session: what goes in are pixels of the model's size, what comes out are probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .base import Session, Signature
from .errors import EngineError
from .forks import no_fork

SUM_TOLERANCE = 0.02
"""The largest distance of the sum of an image's probabilities from 1. In bf16, each of them is off by up to 0.4 %."""


class CheckedSession:
    """A session that refuses other pixels, and raises instead of answering with something that is no probability.

    Args:
        session: the session that computes.
        signature: the shapes of its graph.
        place: the name of the model for errors.
    """

    def __init__(self, session: Session, signature: Signature, place: str) -> None:
        self._session, self._place = session, place
        self._image = (signature.height, signature.width, 3)
        self._classes = signature.classes

    def run(self, pixels: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Return the probabilities; see `runtimes.base.Session`.

        Raises:
            EngineError: the engine failed, or does not answer with finite probabilities.
        """
        if pixels.dtype != np.uint8 or pixels.shape[1:] != self._image or not len(pixels):
            height, width, _ = self._image
            raise EngineError(
                f"{self._place}: takes uint8 [n, {height}, {width}, 3], and not {pixels.dtype} {list(pixels.shape)}"
            )
        answers = self._session.run(pixels)
        if not isinstance(answers, np.ndarray) or answers.dtype != np.float32:
            raise self._failure(f"{getattr(answers, 'dtype', type(answers).__name__)} instead of float32")
        if answers.shape != (len(pixels), self._classes):
            raise self._failure(f"{list(answers.shape)} instead of [{len(pixels)}, {self._classes}]")
        # The comparisons are false for NaN.
        if not (answers.min() >= 0 and np.abs(answers.sum(1) - 1).max() <= SUM_TOLERANCE):
            raise self._failure(
                "numbers that are no probabilities" if np.isfinite(answers).all() else "NaN or infinity"
            )
        return answers

    def close(self) -> None:
        """Free the engine's memory."""
        with no_fork():
            self._session.close()

    def _failure(self, answer: str) -> EngineError:
        return EngineError(f"{self._place}: the model answers with {answer}; export it again, if need be at fp32")

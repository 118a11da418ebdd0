"""A prediction, and the choice of the labels that it lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError, did_you_mean


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The answer for one image.

    Attributes:
        label: the best label, the first of `top`; None if nothing passed the threshold and the lists.
        score: the probability of `label`, 0.0 if there is none.
        top: pairs of (label, score), best first, after all filters.
        probabilities: float32 [classes], of all classes before any filter, in the order of `Classifier.labels`.
        source: the name of the image: its path, or a description such as `<image 32x32>`.
    """

    label: str | None
    score: float
    top: tuple[tuple[str, float], ...]
    probabilities: NDArray[np.float32]
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Return what `libkd-sdk predict --json` prints: `source`, `label`, `score` and `top`, ready for JSON."""
        top = [{"label": label, "score": score} for label, score in self.top]
        return {"source": self.source, "label": self.label, "score": self.score, "top": top}


class Choice:
    """The filters that decide which labels a prediction lists."""

    def __init__(
        self,
        labels: Sequence[str],
        top_k: int,
        score_threshold: float,
        allow: Iterable[str] | None,
        deny: Iterable[str] | None,
    ) -> None:
        if top_k < 1:
            raise UsageError(f"top_k={top_k}: at least 1")
        if not 0.0 <= score_threshold <= 1.0:
            raise UsageError(f"score_threshold={score_threshold}: between 0.0 and 1.0")
        if allow is not None and deny is not None:
            raise UsageError("allow and deny are both given; give one of them")
        self.labels = tuple(labels)
        self._top_k = top_k
        self._threshold = score_threshold
        allowed = np.ones(len(self.labels), bool)
        if allow is not None:
            allowed = self._named(allow)
        elif deny is not None:
            allowed = ~self._named(deny)
        if not allowed.any():
            raise UsageError("allow or deny leaves no label to predict")
        self._candidates = np.flatnonzero(allowed).tolist()

    def prediction(self, probabilities: NDArray[np.float32], source: str) -> Prediction:
        # Right after the engine the caches are cold, and numpy then sorts 100 numbers three times as slowly as Python.
        scores = probabilities.tolist()
        best = sorted(self._candidates, key=scores.__getitem__, reverse=True)[: self._top_k]
        top = tuple((self.labels[index], scores[index]) for index in best if scores[index] >= self._threshold)
        label, score = top[0] if top else (None, 0.0)
        return Prediction(label, score, top, probabilities, source)

    def _named(self, names: Iterable[str]) -> NDArray[np.bool_]:
        """Return bool [classes]: which labels are among `names`; a name shared by several classes means all of them."""
        names = {names} if isinstance(names, str) else set(names)
        for name in sorted(names - set(self.labels)):
            raise UsageError(f"{name!r} is none of the {len(self.labels)} labels; {did_you_mean(name, self.labels)}")
        return np.array([label in names for label in self.labels])

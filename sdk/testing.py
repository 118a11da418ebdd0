"""A fake session for the tests of apps: a classifier without a bundle, an engine or waiting time.

Example::

    session = FakeSession([0.9, 0.1])
    classifier = Classifier.with_session(session, labels=["cat", "dog"], input=Preprocessing.square(32).input)
    assert classifier.predict("tests/any.jpg").label == "cat"
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .images import Pixels


class FakeSession:
    """A session that answers every image with the same `probabilities`.

    Attributes:
        seen: the pixels of each call so far.
        closed: whether `close` was called.
    """

    def __init__(self, probabilities: Sequence[float]) -> None:
        self.probabilities = np.array(probabilities, np.float32)
        self.seen: list[Pixels] = []
        self.closed = False

    def run(self, pixels: Pixels, /) -> NDArray[np.float32]:
        """Return the fixed probabilities [batch, classes] for each image."""
        self.seen.append(pixels)
        return np.tile(self.probabilities, (len(pixels), 1))

    def close(self) -> None:
        """Set `closed`."""
        self.closed = True

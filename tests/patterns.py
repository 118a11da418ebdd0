"""Images with structure in them, made of numbers: waves with a box in front of them."""

from __future__ import annotations

import numpy as np

LABELS = ("t-shirt", "ankle boot", "näh/garn", "bag", "coat")
SIZE = 32


def patterns(count: int, seed: int, size: int = SIZE) -> np.ndarray:
    """uint8 [count, size, size, 3]: waves of any direction with a box in front of them, no two alike."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    images = []
    for _ in range(count):
        across, down, phase = draw.uniform(-25, 25, 3), draw.uniform(-25, 25, 3), draw.uniform(0, 6, 3)
        image = 127 + 127 * np.sin(across * x[..., None] + down * y[..., None] + phase)
        top, left, height, width = draw.integers(2, size // 2, 4)
        image[top : top + height, left : left + width] = draw.integers(0, 256, 3)
        images.append(image.astype(np.uint8))
    return np.stack(images)

"""The rule of spec/preprocessing.md in plain Python and numpy, without Pillow and without our own code."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.uint8]
Kernel = Callable[[float], float]
TURNS: dict[int, Callable[[Array], Array]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image[::-1].swapaxes(0, 1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: image[:, ::-1].swapaxes(0, 1),
}


def bicubic(x: float) -> float:
    x = abs(x)
    return ((1.5 * x - 2.5) * x) * x + 1 if x < 1 else (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2 else 0.0


def sinc(x: float) -> float:
    return math.sin(x * math.pi) / (x * math.pi) if x else 1.0


KERNELS: dict[str, tuple[float, Kernel]] = {
    "box": (0.5, lambda x: float(-0.5 < x <= 0.5)),
    "bilinear": (1.0, lambda x: max(0.0, 1 - abs(x))),
    "bicubic": (2.0, bicubic),
    "lanczos": (3.0, lambda x: sinc(x) * sinc(x / 3) if -3 <= x < 3 else 0.0),
}


def on_white(rgba: Array) -> Array:
    colour, alpha = rgba[..., :3].astype(np.int64), rgba[..., 3:].astype(np.int64)
    mixed = 128 * (colour * alpha + 255 * (255 - alpha)) + (128 << 7)
    return (((mixed >> 8) + mixed >> 8) >> 7).astype(np.uint8)


def shares(length: int, extent: float, size: int, name: str) -> NDArray[np.int64]:
    support, kernel = KERNELS[name]
    scale = extent / size
    stretch = max(scale, 1.0)
    rows = np.zeros((size, length), np.int64)
    for place in range(size):
        centre = (place + 0.5) * scale
        first = max(0, int(centre - support * stretch + 0.5))
        last = min(length, int(centre + support * stretch + 0.5))
        raw = [kernel((x - centre + 0.5) * (1 / stretch)) for x in range(first, last)]
        whole = sum(raw)
        rows[place, first:last] = [int(w / whole * 2**22 + math.copysign(0.5, w)) for w in raw]
    return rows


def along(image: Array, axis: int, extent: float, size: int, name: str) -> Array:
    length = image.shape[axis]
    if length == size == extent:
        return image
    if name == "nearest":
        places, step = np.empty(size, np.int64), extent / size
        at = step * 0.5
        for place in range(size):
            places[place], at = int(at), at + step
        return image.take(places, axis)
    summed = np.tensordot(shares(length, extent, size, name), image.astype(np.int64), (1, axis))
    return np.moveaxis((summed + 2**21 >> 22).clip(0, 255).astype(np.uint8), 0, axis)


def pixels(image: Array, input: dict, orientation: int = 1, extent: tuple[float, float] | None = None) -> Array:
    """Return what a model takes, from a decoded RGB or RGBA image [height, width, 3 or 4]."""
    image = on_white(image) if image.shape[2] == 4 else image
    wide, high = extent or (image.shape[1], image.shape[0])
    sideways = orientation > 4
    (across, down), (height, width) = ((high, wide) if sideways else (wide, high)), input["resize"]["size"]
    if input["resize"]["mode"] == "cover":
        if width * down >= height * across:
            height = int(width * down / across)
        else:
            width = int(height * across / down)
    columns, rows = (height, width) if sideways else (width, height)
    passes = [(1, wide, columns), (0, high, rows)]
    if image.shape[0] > rows and image.shape[0] - rows > 2 * (image.shape[1] - columns):
        passes.reverse()
    for axis, whole, size in passes:
        image = along(image, axis, whole, size, input["resize"]["filter"])
    image = TURNS.get(orientation, lambda image: image)(image)
    top, left = round((height - input["height"]) / 2), round((width - input["width"]) / 2)
    return image[top : top + input["height"], left : left + input["width"]]

"""Every kind of pixels as 8-bit RGB, a few rows at a time, so that a large image is never held in several forms."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

_BAND = 2**20
"""A band of rows has about so many pixels."""


def is_plain(image: Image.Image) -> bool:
    """Return whether an image is grey or RGB with 8 bits and without transparency: what is scaled as it is."""
    return image.mode in ("L", "RGB") and "transparency" not in image.info


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image as RGB, with transparency on white."""
    if image.width * image.height <= _BAND:
        return _converted(image)
    result = Image.new("RGB", image.size)
    for corner, band in rgb_bands(image):
        result.paste(band, corner)
    return result


def rgb_bands(image: Image.Image, upright: bool = False) -> Iterator[tuple[tuple[int, int], Image.Image]]:
    """Yield an image as RGB bands of its full width, or height if `upright`, each with its left upper corner."""
    for corner, band in _bands(image, upright):
        yield corner, _converted(band)


def eight_bits(image: Image.Image, bits: int) -> Image.Image:
    """Return a grey image of `bits` bits as one of 8. Pixels of its transparent colour, if it has one, become white."""
    clear = image.info.get("transparency")
    pixels = np.empty((image.height, image.width), np.uint8)
    for (_, top), band in _bands(image):
        deep = np.asarray(band)
        rows = pixels[top : top + band.height]
        rows[:] = (deep >> (bits - 8)).clip(0, 255)
        if clear is not None:
            rows[deep == clear] = 255
    return Image.fromarray(pixels)


def _bands(image: Image.Image, upright: bool = False) -> Iterator[tuple[tuple[int, int], Image.Image]]:
    width, height = image.size
    if upright:
        columns = max(1, _BAND // height)
        for left in range(0, width, columns):
            yield (left, 0), image.crop((left, 0, min(left + columns, width), height))
    else:
        rows = max(1, _BAND // width)
        for top in range(0, height, rows):
            yield (0, top), image.crop((0, top, width, min(top + rows, height)))


def _converted(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and is_plain(image):
        return image
    if image.has_transparency_data:
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")

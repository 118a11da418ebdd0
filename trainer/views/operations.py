"""The operations of RandAugment (Cubuk et al., 2020) and TrivialAugment (Mueller & Hutter, 2021), on whole batches.

The fourteen kinds and their ranges are those of torchvision's RandAugment and TrivialAugmentWide, without Invert and
SolarizeAdd, which timm has in addition. One thing differs: operations that move pixels are not applied one after the
other, but become part of the matrix of the view. So a view is resampled only once, bilinearly, however many operations
it draws. The colour operations follow, in the order in which they are drawn.

Shapes: B batch, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum, auto
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .keys import Keys
from .spec import ViewSpec

_GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601, as in Pillow and torchvision
_MAGNITUDES, _DEVIATION = 10, 0.5


class Kind(IntEnum):
    """The kinds of operations.

    From SHEAR_X to ROTATE they move pixels. From BRIGHTNESS to SHARPNESS they blend the image with another one. From
    POSTERIZE on they map every value with a table.
    """

    IDENTITY = 0
    SHEAR_X = auto()
    SHEAR_Y = auto()
    TRANSLATE_X = auto()
    TRANSLATE_Y = auto()
    ROTATE = auto()
    BRIGHTNESS = auto()
    SATURATION = auto()
    CONTRAST = auto()
    SHARPNESS = auto()
    POSTERIZE = auto()
    SOLARIZE = auto()
    AUTOCONTRAST = auto()
    EQUALIZE = auto()


class Ranges(NamedTuple):
    """The strength of the operations at magnitude 10.

    Attributes:
        shear: a slope.
        translate_x, translate_y: shares of the side.
        rotate: degrees.
        change: the relative change of the operations that blend.
        bits: the number of bits that posterize drops.
    """

    shear: float
    translate_x: float
    translate_y: float
    rotate: float
    change: float
    bits: int


def ranges(spec: ViewSpec, height: int, width: int) -> Ranges:
    """Return the ranges of a spec for images of a size: TrivialAugmentWide moves by pixels, not by shares."""
    if spec.magnitude == "uniform":
        return Ranges(0.99, 32 / width, 32 / height, 135, 0.99, 6)
    return Ranges(0.3, 150 / 331, 150 / 331, 30, 0.9, 4)


class Operation(NamedTuple):
    """One operation for each image.

    Attributes:
        kind: int64 [B]; see `Kind`.
        strength: float32 [B] in 0..1, a share of the range of the kind.
        sign: float32 [B], -1 or 1; posterize and solarize ignore it.
    """

    kind: Tensor
    strength: Tensor
    sign: Tensor


def draw(keys: Keys, spec: ViewSpec) -> list[Operation]:
    """Return the operations for the images of `keys`, in order. A kind may be drawn more than once."""
    return [_draw(keys, f"operation {place}", spec.magnitude) for place in range(spec.operations)]


def _draw(keys: Keys, name: str, magnitude: float | Literal["uniform"]) -> Operation:
    kind = keys.uniform(f"{name} kind", 0, len(Kind)).long()
    sign = 1 - 2 * keys.chance(f"{name} sign", 0.5).to(torch.float32)
    if magnitude == "uniform":
        return Operation(kind, keys.uniform(f"{name} magnitude"), sign)
    varied = magnitude + _DEVIATION * keys.normal(f"{name} magnitude")
    return Operation(kind, varied.clamp(0, _MAGNITUDES) / _MAGNITUDES, sign)


def placement(operation: Operation, ranges: Ranges, aspect: float) -> Tensor:
    """Return where an operation takes its pixels from, as matrices [B, 2, 3].

    A matrix maps (x, y, 1) of the output to (x, y) of the input, where coordinates go from -1 to 1 over the side. It is
    the identity for kinds that move nothing. Shears keep the top and left edges in place, as in torchvision and Pillow.
    """

    def level(kind: Kind, largest: float) -> Tensor:
        return torch.where(operation.kind == kind, operation.sign * operation.strength * largest, 0.0)

    shear_x, shear_y = level(Kind.SHEAR_X, ranges.shear) / aspect, level(Kind.SHEAR_Y, ranges.shear) * aspect
    move_x = level(Kind.TRANSLATE_X, 2 * ranges.translate_x)
    move_y = level(Kind.TRANSLATE_Y, 2 * ranges.translate_y)
    cos, sin = cos_and_sin(level(Kind.ROTATE, ranges.rotate))
    # An image has only one of these operations, so their sum is equal to their product.
    return matrices((cos, shear_x - sin / aspect, shear_x - move_x), (shear_y + sin * aspect, cos, shear_y - move_y))


def cos_and_sin(degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of float32 [B] degrees, each float32 [B]."""
    # In float64: see _log_uniform in view.py.
    angle = degrees.double() * (math.pi / 180)
    return angle.cos().float(), angle.sin().float()


def matrices(*rows: tuple[Tensor, ...]) -> Tensor:
    """Return matrices [B, rows, columns] of entries that are [B] each."""
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def after(outer: Tensor, inner: Tensor) -> Tensor:
    """Return the affine maps [B, 2, 3] that apply `inner` first and then `outer`."""
    # The sums are written out because the order of summation in a matmul depends on the batch.
    product = outer[:, :, :1] * inner[:, :1] + outer[:, :, 1:2] * inner[:, 1:]
    product[:, :, 2] += outer[:, :, 2]
    return product


def apply_colours(pixels: Tensor, operation: Operation, ranges: Ranges) -> Tensor:
    """Apply an operation to float32 [B, 3, H, W] in 0..1. An image stays unchanged if its operation moves pixels."""
    kind, strength, sign = operation
    factor = 1 + ranges.change * sign * strength
    bits = (ranges.bits * strength).round().to(torch.int32)
    mapped = kind >= Kind.POSTERIZE
    pixels = _where((kind >= Kind.BRIGHTNESS) & ~mapped, _blended, pixels, kind, factor)
    return _where(mapped, _mapped, pixels, kind, bits, 1 - strength)


def _where(chosen: Tensor, change: Callable[..., Tensor], pixels: Tensor, *arguments: Tensor) -> Tensor:
    """Apply `change` to the rows that are chosen, bool [B]."""
    if pixels.is_cuda:  # to select rows, the host would have to wait for the device
        return torch.where(_column(chosen), change(pixels, *arguments), pixels)
    rows = chosen.nonzero().squeeze(1)
    return pixels.index_copy(0, rows, change(pixels[rows], *(argument[rows] for argument in arguments)))


def _column(value: Tensor) -> Tensor:
    return value[:, None, None, None]


def _blended(pixels: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
    shade = grey(pixels)
    pivot = torch.where(_column(kind == Kind.CONTRAST), mean(to_bytes(shade)), shade)
    pivot = torch.where(_column(kind == Kind.BRIGHTNESS), 0.0, pivot)
    pivot = torch.where(_column(kind == Kind.SHARPNESS), _smooth(pixels), pivot)
    return blend(pivot, pixels, _column(factor)).clamp(0, 1)


def blend(pivot: Tensor, pixels: Tensor, factor: Tensor) -> Tensor:
    """Return `pivot` for factor 0, `pixels` for factor 1, and the line through both for other factors."""
    return pivot + (pixels - pivot) * factor


def grey(pixels: Tensor) -> Tensor:
    """Return the brightness [B, 1, H, W] of pixels [B, 3, H, W]."""
    channels: tuple[Tensor, ...] = pixels.split(1, dim=1)
    red, green, blue = (weight * channel for weight, channel in zip(_GREY, channels, strict=True))
    return red + green + blue


def to_bytes(pixels: Tensor) -> Tensor:
    """Return pixels in 0..1 as the nearest uint8 values 0..255."""
    return (pixels * 255).round().to(torch.uint8)


def mean(values: Tensor) -> Tensor:
    """Return the mean of each image of uint8 [B, ...], in 0..1, [B, 1, 1, 1]."""
    # Sums of integers are the same in any batch and on any device.
    return _column(values.sum((1, 2, 3), dtype=torch.int32).to(torch.float32) / (255 * values.shape[1:].numel()))


def _smooth(pixels: Tensor) -> Tensor:
    """Apply Pillow's SMOOTH: five times each pixel plus its eight neighbours, over 13. The border stays as it is."""
    rows = pixels[:, :, :-2] + pixels[:, :, 1:-1] + pixels[:, :, 2:]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = pixels.clone()
    smooth[:, :, 1:-1, 1:-1] = (around + 4 * pixels[:, :, 1:-1, 1:-1]) / 13
    return smooth


def _mapped(pixels: Tensor, kind: Tensor, bits: Tensor, threshold: Tensor) -> Tensor:
    values = to_bytes(pixels).flatten(2)
    value = torch.arange(256, dtype=torch.int32, device=pixels.device).expand(*values.shape[:2], -1)
    bits, threshold, kind = (argument[:, None, None] for argument in (bits, threshold, kind))
    table = _equalized(values, value) / 255
    table = torch.where(kind == Kind.POSTERIZE, (value >> bits << bits) / 255, table)
    table = torch.where(kind == Kind.SOLARIZE, torch.where(value < 255 * threshold, value, 255 - value) / 255, table)
    table = torch.where(kind == Kind.AUTOCONTRAST, _stretched(values, value), table)
    return table.gather(2, values.long()).view_as(pixels)


def _equalized(values: Tensor, value: Tensor) -> Tensor:
    """Return the table with which Pillow equalises a histogram, int32 [B, 3, 256]."""
    counts = torch.zeros_like(value).scatter_add(2, values.long(), torch.ones_like(values, dtype=torch.int32))
    below = counts.cumsum(2, dtype=torch.int32) - counts
    step = below.gather(2, values.amax(2, keepdim=True).long()) // 255
    return torch.where(step > 0, ((below + step // 2) // step.clamp(min=1)).clamp(max=255), value)


def _stretched(values: Tensor, value: Tensor) -> Tensor:
    """Return the table that maps the smallest value to 0 and the largest to 1, float32 [B, 3, 256]."""
    least, largest = (edge.to(torch.int32) for edge in values.aminmax(dim=2, keepdim=True))
    span = largest - least
    return torch.where(span > 0, (value - least) / span.clamp(min=1), value / 255).clamp(0, 1)

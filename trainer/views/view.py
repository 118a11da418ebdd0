"""The pixels of a view, made from uint8 images. Every step works on a whole batch, on the device of the images.

Shapes: B batch, H height, W width.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .keys import Keys, seed_of
from .operations import (
    Operation,
    Ranges,
    after,
    apply_colours,
    blend,
    cos_and_sin,
    draw,
    grey,
    matrices,
    mean,
    placement,
    ranges,
    to_bytes,
)
from .spec import ExtraSpec, ViewSpec

_ERASED_AREA, _ERASED_RATIO, _ERASED_VALUE = (0.02, 0.33), (0.3, 3.3), 0.5


class View(NamedTuple):
    """A batch of one view.

    Attributes:
        pixels: float32 [B, 3, H, W] in 0..1.
        own: float32 [B]; the share of each row that shows its own image. The rest, `1 - own`, shows the image of its
            partner: rows 2i and 2i+1 are mixed with each other.
    """

    pixels: Tensor
    own: Tensor

    def targets(self, labels: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
        """Return the soft labels of the mixed images, [B, classes].

        Args:
            labels: int64 [B]. A label below 0 is unknown: it adds no mass, so its row and that of its partner sum to
                less than 1.
            smoothing: the share of the mass that is spread evenly over all classes.
        """
        hard = F.one_hot(labels.clamp(min=0), classes).to(self.own.dtype) * (labels >= 0)[:, None]
        own = self.own[:, None]
        mixed = own * hard + (1 - own) * _partners(hard)
        return mixed * (1 - smoothing) + mixed.sum(1, keepdim=True) * (smoothing / classes)


def render(images: Tensor, samples: Tensor, *, seed: int, view: int, spec: ViewSpec) -> View:
    """Return the view number `view` of some images.

    The result depends only on the images, their ids, `seed`, `view` and `spec`.

    Args:
        images: uint8 [B, H, W, 3], in pairs: if the spec mixes, rows 2i and 2i+1 are mixed with each other. A last row
            without a partner is not mixed.
        samples: int64 ids [B].
    """
    keys = Keys(seed, samples, view)
    operations, reach = draw(keys, spec), ranges(spec, *images.shape[1:3])
    pixels = images.permute(0, 3, 1, 2).to(torch.float32) / 255
    pixels = _resample(pixels, keys, spec, operations, reach)
    pixels = _recolour(pixels, images, keys, spec)
    for operation in operations:
        pixels = apply_colours(pixels, operation, reach)
    pixels = _erase(pixels, keys, spec)
    return _mix(pixels, Keys(seed, samples ^ _partners(samples), view), spec)


def enhance(pixels: Tensor, samples: Tensor, *, seed: int, epoch: int, spec: ExtraSpec) -> Tensor:
    """Return finished views with further augmentation, which differs in each epoch.

    A student may see it although its teachers did not. The result depends only on the pixels, the ids, `seed`, `epoch`
    and `spec`.

    Args:
        pixels: float32 [B, 3, H, W] in 0..1.
        samples: int64 ids [B].

    Returns:
        the same shape; `pixels` itself if every part of the spec is off.
    """
    if spec == ExtraSpec():
        return pixels
    keys = Keys(seed_of(seed, "enhance"), samples, epoch)  # not the draws of the view with this number
    return _erase(_recolour(pixels, to_bytes(pixels), keys, spec), keys, spec)


def _partners(rows: Tensor) -> Tensor:
    """Return the partner of each row: rows 2i and 2i+1 change places, and a last single row stays where it is."""
    even = rows.shape[0] // 2 * 2
    swapped = rows[:even].unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    return torch.cat([swapped, rows[even:]]) if even < rows.shape[0] else swapped


def _resample(pixels: Tensor, keys: Keys, spec: ViewSpec, operations: list[Operation], reach: Ranges) -> Tensor:
    """Crop, shift, flip and rotate, and apply the operations that move pixels, in a single bilinear resampling."""
    if not (spec.shift or spec.scale != (1, 1) or spec.ratio != (1, 1) or spec.flip or spec.rotate or operations):
        return pixels
    height, width = pixels.shape[-2:]
    places = _cropped(keys, spec, width / height)
    for operation in operations:
        places = after(places, placement(operation, reach, width / height))
    x, y = _centres(width, pixels)[None, None, :] * 2 - 1, _centres(height, pixels)[None, :, None] * 2 - 1
    (a, b, c), (d, e, f) = (row.unbind(1) for row in places[..., None, None].unbind(1))
    grid = torch.stack([a * x + b * y + c, d * x + e * y + f], dim=-1)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode=spec.fill, align_corners=False)


def _cropped(keys: Keys, spec: ViewSpec, aspect: float) -> Tensor:
    """Return where crop, shift, flip and rotation take their pixels from: matrices [B, 2, 3], as of `placement`."""
    area = keys.uniform("crop area", *spec.scale)
    ratio = _log_uniform(keys, "crop ratio", spec.ratio)
    kept_x = (area * ratio).sqrt().clamp(max=1)
    kept_y = (area / ratio).sqrt().clamp(max=1)
    centre_x = (1 - kept_x) * keys.uniform("crop x", -1, 1) + 2 * spec.shift * keys.uniform("shift x", -1, 1)
    centre_y = (1 - kept_y) * keys.uniform("crop y", -1, 1) + 2 * spec.shift * keys.uniform("shift y", -1, 1)
    mirror = 1 - 2 * keys.chance("flip", spec.flip).to(area.dtype)
    cos, sin = cos_and_sin(keys.uniform("rotate", -spec.rotate, spec.rotate))
    # mirror, rotate in square pixels, scale to the crop, move
    return matrices(
        (kept_x * cos * mirror, -kept_x * sin / aspect, centre_x),
        (kept_y * sin * mirror * aspect, kept_y * cos, centre_y),
    )


def _log_uniform(keys: Keys, name: str, bounds: tuple[float, float]) -> Tensor:
    # In float64: the vectorised exp, sin and cos of float32 differ in the last bit from the scalar forms that torch
    # uses at the end of a batch, and a pixel must not depend on its place in the batch.
    return keys.uniform(name, *map(math.log, bounds)).double().exp().float()


def _centres(size: int, like: Tensor) -> Tensor:
    return (torch.arange(size, device=like.device) + 0.5) / size


def _recolour(pixels: Tensor, untouched: Tensor, keys: Keys, spec: ViewSpec | ExtraSpec) -> Tensor:
    """Change brightness, contrast around the mean of the `untouched` images, uint8 [B, ...], and saturation."""
    if spec.brightness:
        pixels = pixels * _factor(keys, "brightness", spec.brightness)
    if spec.contrast:
        pixels = blend(mean(untouched), pixels, _factor(keys, "contrast", spec.contrast))
    if spec.saturation:
        pixels = blend(grey(pixels), pixels, _factor(keys, "saturation", spec.saturation))
    return pixels.clamp(0, 1) if spec.brightness or spec.contrast or spec.saturation else pixels


def _factor(keys: Keys, name: str, change: float) -> Tensor:
    return keys.uniform(name, 1 - change, 1 + change)[:, None, None, None]


def _erase(pixels: Tensor, keys: Keys, spec: ViewSpec | ExtraSpec) -> Tensor:
    if not spec.erase:
        return pixels
    area = keys.uniform("erase area", *_ERASED_AREA)
    ratio = _log_uniform(keys, "erase ratio", _ERASED_RATIO)
    sides = (area / ratio).sqrt().clamp(max=1), (area * ratio).sqrt().clamp(max=1)
    start = [(1 - side) * keys.uniform(f"erase {axis}") for axis, side in zip("yx", sides, strict=True)]
    inside = _box(pixels, start[0], start[0] + sides[0], start[1], start[1] + sides[1])
    return torch.where(inside & keys.chance("erase", spec.erase)[:, None, None, None], _ERASED_VALUE, pixels)


def _box(pixels: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return which pixels have their centres inside boxes, bool [B, 1, H, W].

    The edges of the boxes are [B] each, in shares of the sides of the image.
    """
    y, x = _centres(pixels.shape[-2], pixels), _centres(pixels.shape[-1], pixels)
    rows = (y >= top[:, None]) & (y < bottom[:, None])
    columns = (x >= left[:, None]) & (x < right[:, None])
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _mix(pixels: Tensor, pair: Keys, spec: ViewSpec) -> View:
    """Apply Mixup or CutMix to each row and its partner, with keys that both rows of a pair share."""
    whole = torch.ones(pixels.shape[0], device=pixels.device)
    if not (spec.mixup or spec.cutmix):
        return View(pixels, whole)
    partners = _partners(pixels)
    unit = pair.uniform("mix share")
    mixed = pair.chance("mix", spec.mix)
    cut = pair.chance("mix kind", 0.5 if spec.mixup and spec.cutmix else float(spec.cutmix > 0))

    share = torch.where(cut, _beta(unit, spec.cutmix), _beta(unit, spec.mixup))
    share = torch.where(mixed, share, 1.0)
    side = (1 - share).sqrt()
    top, left = (1 - side) * pair.uniform("mix y"), (1 - side) * pair.uniform("mix x")
    inside = _box(pixels, top, top + side, left, left + side)
    cut_own = 1 - inside.to(torch.float32).mean((1, 2, 3))

    column = share[:, None, None, None]
    blended = column * pixels + (1 - column) * partners
    pasted = torch.where(inside, partners, pixels)
    pixels = torch.where(cut[:, None, None, None], pasted, blended)
    own = torch.where(cut, cut_own, share)
    if pixels.shape[0] % 2:  # a last row without a partner was mixed with itself, so it is whole
        own = torch.cat([own[:-1], whole[-1:]])
    return View(pixels, own)


def _beta(unit: Tensor, alpha: float) -> Tensor:
    """Turn uniform draws into draws from Beta(alpha, alpha), through its quantiles."""
    if alpha in (0, 1):
        return unit
    table = _beta_quantiles(alpha, unit.device)
    place = unit * (len(table) - 1)
    left = place.long().clamp(max=len(table) - 2)
    return table[left] + (table[left + 1] - table[left]) * (place - left)


@lru_cache
def _beta_quantiles(alpha: float, device: torch.device, steps: int = 4096) -> Tensor:
    """Return the quantiles of Beta(alpha, alpha) at steps + 1 evenly spaced probabilities, float32.

    With x = sin^2, the density in the angle, (sin * cos)^(2 alpha - 1), has no pole for alpha >= 0.5 and a weak one
    below, so sums at midpoints are exact enough.
    """
    edges = torch.linspace(0, math.pi / 2, 16 * steps + 1, dtype=torch.float64)
    middle = (edges[1:] + edges[:-1]) / 2
    density = (middle.sin() * middle.cos()) ** (2 * alpha - 1)
    mass = torch.cat([torch.zeros(1, dtype=torch.float64), density.cumsum(0)])
    mass = mass / mass[-1]
    wanted = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    right = torch.searchsorted(mass, wanted).clamp(1, len(mass) - 1)
    within = (wanted - mass[right - 1]) / (mass[right] - mass[right - 1])
    return torch.lerp(edges[right - 1], edges[right], within).sin().square().to(device, torch.float32)

"""From pixels in 0..1 to what a net takes."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .files import Preprocessing


def to_input(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Float pixels [B, 3, H, W] in 0..1, at the net's own size (bilinear), normalised, in the memory layout that
    convolutions like best."""
    size = (preprocessing.input.height, preprocessing.input.width)
    if pixels.shape[-2:] != size:
        pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
    mean, std = _statistics(preprocessing.mean, preprocessing.std, pixels.device)
    return pixels.sub(mean).div_(std).contiguous(memory_format=torch.channels_last)


@lru_cache
def _statistics(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Keep them on the device: a copy from the host waits for everything that the device was given before."""
    with torch.inference_mode(False):  # training uses them as well
        mean_C11, std_C11 = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (mean, std))
    return mean_C11, std_C11

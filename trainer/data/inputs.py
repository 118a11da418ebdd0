"""The last step before a net: from pixels in 0..1 to its input."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .files import Preprocessing


def to_input(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Scale pixels to the size of a net (bilinear) and normalise them.

    Args:
        pixels: float [B, 3, H, W] in 0..1.

    Returns:
        float [B, 3, height, width], in channels-last memory layout, in which convolutions are fastest.
    """
    size = (preprocessing.input.height, preprocessing.input.width)
    if pixels.shape[-2:] != size:
        pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
    mean, std = _statistics(preprocessing.mean, preprocessing.std, pixels.device)
    return pixels.sub(mean).div_(std).contiguous(memory_format=torch.channels_last)


@lru_cache
def _statistics(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return both as [3, 1, 1] on the device, and keep them there.

    A copy from the host would wait for all work that the device was given before.
    """
    with torch.inference_mode(False):  # training uses them as well
        mean_C11, std_C11 = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (mean, std))
    return mean_C11, std_C11

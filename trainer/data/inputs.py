"""From pixels in 0..1 to what a net takes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import normalize

from .pictures import Preprocessing


def to_input(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Float pixels [B, 3, H, W] in 0..1, at the net's own size (bilinear), normalised, in the memory layout that
    convolutions like best."""
    size = (preprocessing.input.height, preprocessing.input.width)
    if pixels.shape[-2:] != size:
        pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
    normalised = normalize(pixels, list(preprocessing.mean), list(preprocessing.std))
    return normalised.contiguous(memory_format=torch.channels_last)

"""From pixels in 0..1 to what a net takes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import normalize

from .pictures import Preprocessing


def to_input(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Float pixels [B, 3, H, W] in 0..1, normalised, in the memory layout that convolutions like best."""
    normalised = normalize(pixels, list(preprocessing.mean), list(preprocessing.std))
    return normalised.contiguous(memory_format=torch.channels_last)

"""The student: a timm vision transformer with one bias token and one head for each teacher.

After Co-advise (Ren et al., CVPR 2022, arXiv 2106.12378) and LIB-KD (arXiv 2310.00369): token 0 is the class token and
learns from labels, token k learns from teacher k. The tokens are timm's register tokens, learned.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from timm.layers import HybridEmbed, PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from torch import Tensor, nn


class Student(nn.Module):
    """Pictures to logits; in training one row of logits for each head, in evaluation their calibrated mean.

    Training: `[B, 3, size, size] -> [B, 1 + teachers, classes]`; evaluation: `-> [B, classes]`, the mean over heads
    divided by `temperature` (a buffer, 1 until it is fitted).

    Args:
        classes: number of classes.
        teachers: number of bias tokens.
        size: height and width of the pictures, in pixels; for the `patch` stem a multiple of `patch`.
        stem: `patch` cuts patches by one strided convolution; `conv` gets there by stride-2 3x3 convolutions, which
            lets a small transformer learn from few pictures (Xiao et al., NeurIPS 2021, arXiv 2106.14881).
        patch: pixels between neighbouring tokens; a power of two for the `conv` stem.
        width, depth, heads, mlp_ratio: the transformer's shape.
        drop_path: stochastic depth of the last block.
    """

    def __init__(
        self,
        *,
        classes: int,
        teachers: int,
        size: int,
        stem: Literal["patch", "conv"] = "conv",
        patch: int = 4,
        width: int = 192,
        depth: int = 9,
        heads: int = 3,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.trunk = VisionTransformer(
            img_size=size,
            patch_size=patch,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            mlp_ratio=mlp_ratio,
            drop_path_rate=drop_path,
            reg_tokens=teachers,
            num_classes=0,
            global_pool="",
            embed_layer=PatchEmbed if stem == "patch" else partial(_conv_embed, stride=patch),
        )
        self.heads = nn.ModuleList(nn.Linear(width, classes) for _ in range(1 + teachers))
        for head in self.heads:
            nn.init.trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.trunk.forward_features(x)
        logits_BHC = torch.stack([head(tokens[:, k]) for k, head in enumerate(self.heads)], dim=1)
        return logits_BHC if self.training else logits_BHC.mean(1) / self.temperature


def _conv_embed(img_size: int, patch_size: int, in_chans: int, embed_dim: int, stride: int, **kwargs) -> HybridEmbed:
    """A stack of stride-2 3x3 convolutions, their widths doubling up to the transformer's."""
    depth = stride.bit_length() - 1
    channels = (*(max(16, embed_dim >> (depth - 1 - level)) for level in range(depth - 1)), embed_dim)
    stem = ConvStem(in_chans, depth=depth, channels=channels, stride=(2,) * depth)
    return HybridEmbed(stem, img_size=img_size, patch_size=1, in_chans=in_chans, embed_dim=embed_dim, proj=False)

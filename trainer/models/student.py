"""The student: a timm vision transformer with one bias token and one head for each teacher.

After Co-advise (Ren et al., CVPR 2022, arXiv 2106.12378) and LIB-KD (arXiv 2310.00369): token 0 is the class token and
learns from labels, token k learns from teacher k. The bias tokens are timm's register tokens.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import HybridEmbed, PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from torch import Tensor, nn

from .involution import Involution

STEMS = 2
"""How many stems Co-advise has, and so the least number of bias tokens with `tokens = "stems"`."""


class Student(nn.Module):
    """Pictures to logits; in training one row of logits for each head, in evaluation their calibrated mean.

    Training: `[B, 3, size, size] -> [B, 1 + teachers, classes]`; evaluation: `-> [B, classes]`, the mean over heads
    divided by `temperature` (a buffer, 1 until it is fitted).

    Args:
        classes: number of classes.
        teachers: number of bias tokens.
        size: height and width of the pictures, in pixels; for the `patch` stem a multiple of `patch`.
        tokens: `learned` bias tokens behind one stem; or Co-advise's `stems`, one of convolution and one of
            involution, whose sum makes the patches and whose means are added to the first and second bias token.
        stem: `patch` cuts patches by one strided convolution; `conv` gets there by stride-2 3x3 convolutions, which
            lets a small transformer learn from few pictures (Xiao et al., NeurIPS 2021, arXiv 2106.14881). With
            `tokens = "stems"` it is not looked at.
        patch: pixels between neighbouring tokens; a power of two for the `conv` stem, even for `stems`.
        width, depth, heads, mlp_ratio: the transformer's shape.
        drop_path: stochastic depth of the last block.
    """

    def __init__(
        self,
        *,
        classes: int,
        teachers: int,
        size: int,
        tokens: Literal["learned", "stems"] = "learned",
        stem: Literal["patch", "conv"] = "conv",
        patch: int = 4,
        width: int = 192,
        depth: int = 9,
        heads: int = 3,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        trunk, embed = VisionTransformer, PatchEmbed if stem == "patch" else partial(_conv_embed, stride=patch)
        if tokens == "stems":
            if teachers < STEMS:
                raise ValueError(f"Co-advise's stems are for {STEMS} teachers or more, not {teachers}")
            trunk, embed = StemmedTransformer, BiasStems
        self.trunk = trunk(
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
            embed_layer=embed,
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

    def no_weight_decay(self) -> set[str]:
        """Tokens and positions are places, not maps: timm asks here what its optimisers leave undecayed."""
        return {f"trunk.{name}" for name in self.trunk.no_weight_decay()}


def _conv_embed(img_size: int, patch_size: int, in_chans: int, embed_dim: int, stride: int, **kwargs) -> HybridEmbed:
    """A stack of stride-2 3x3 convolutions, their widths doubling up to the transformer's."""
    depth = stride.bit_length() - 1
    channels = (*(max(16, embed_dim >> (depth - 1 - level)) for level in range(depth - 1)), embed_dim)
    stem = ConvStem(in_chans, depth=depth, channels=channels, stride=(2,) * depth)
    return HybridEmbed(stem, img_size=img_size, patch_size=1, in_chans=in_chans, embed_dim=embed_dim, proj=False)


class BiasStems(nn.Module):
    """Co-advise's two stems, `[B, in_chans, size, size] -> 2 x [B, patches, embed_dim]`: convolution, involution.

    Each halves the picture and then cuts patches from 64 channels; the involution stem is RedNet's. A picture that
    does not divide into patches is padded with zeros at its right and lower edge.
    """

    def __init__(self, img_size: int, patch_size: int, in_chans: int, embed_dim: int, **kwargs: Any) -> None:
        super().__init__()
        stride, half = patch_size // 2, -(-img_size // 2)
        side = -(-half // stride)
        self.grid_size, self.num_patches = (side, side), side**2
        self.missing = side * stride - half
        self.conv = nn.Sequential(
            *_conv_norm_act(in_chans, 64, kernel=7, stride=2), *_conv_norm_act(64, 64), *_conv_norm_act(64, 64)
        )
        self.involution = nn.Sequential(
            *_conv_norm_act(in_chans, 32, stride=2),
            Involution(32, kernel_size=3),
            nn.BatchNorm2d(32),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 3, padding=1, bias=False),
        )
        self.project = nn.ModuleList(nn.Conv2d(64, embed_dim, stride, stride) for _ in range(STEMS))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        features = (self.conv(x), self.involution(x))
        return [
            project(F.pad(part, (0, self.missing, 0, self.missing))).flatten(2).mT
            for part, project in zip(features, self.project, strict=True)
        ]


def _conv_norm_act(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


class StemmedTransformer(VisionTransformer):
    """timm's vision transformer behind `BiasStems`: the mean of a stem's patches is the start of its bias token."""

    def forward_features(self, x: Tensor) -> Tensor:
        stems = self.patch_embed(x)
        tokens = self._pos_embed(sum(stems[1:], start=stems[0]))
        means = torch.stack([patches.mean(1) for patches in stems], dim=1)
        tokens = torch.cat([tokens[:, :1], tokens[:, 1 : 1 + STEMS] + means, tokens[:, 1 + STEMS :]], dim=1)
        return self.norm(self.blocks(self.norm_pre(tokens)))

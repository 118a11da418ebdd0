"""The student: a timm vision transformer with one bias token and one head for each teacher.

The design follows Co-advise (Ren et al., CVPR 2022, arXiv 2106.12378) and LIB-KD (arXiv 2310.00369): token 0 is the
class token and learns from labels, and token k learns from teacher k. The bias tokens are timm's register tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from msgspec.structs import replace
from timm.layers import HybridEmbed, PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from torch import Tensor, nn

from ..data import Preprocessing
from ..errors import RecipeError
from ..recipe import StudentRecipe
from .involution import Involution
from .trunk import PublishedTrunk, check_size, patch_of, published_trunk

STEMS = 2
"""The number of stems in Co-advise; with `tokens = "stems"`, a student has at least as many bias tokens."""


class Student(nn.Module):
    """A small vision transformer that learns from several teachers.

    In training it maps `[B, 3, size, size]` to the logits of each head, `[B, 1 + teachers, classes]`. In evaluation it
    maps to `[B, classes]`: the mean over the heads, divided by `temperature` (a buffer, 1 until it is fitted).

    Attributes:
        NEW: the names of the parts that have no published weights.

    Args:
        classes: the number of classes.
        teachers: the number of bias tokens.
        size: the height and width of the images, in pixels; for the `patch` stem a multiple of `patch`.
        tokens: `learned` has learned bias tokens and one stem. `stems` has the two stems of Co-advise, one of
            convolution and one of involution: their sum gives the patches, and their means are added to the first and
            the second bias token.
        stem: `patch` makes patches with one strided convolution. `conv` makes them with a stack of 3x3 convolutions of
            stride 2, so that a small transformer can learn from few images (Xiao et al., NeurIPS 2021, arXiv
            2106.14881). With `tokens = "stems"` this argument has no effect.
        patch: the distance of neighbouring tokens in pixels; a power of two for the `conv` stem, even for `stems`.
        width, depth, heads, mlp_ratio: the shape of the transformer.
        drop_path: the rate of stochastic depth in the last block.
        trunk: a trunk in place of one of this shape; it has a bias token for each teacher.

    Raises:
        ValueError: `tokens` is `stems`, and there are fewer than two teachers.
    """

    NEW = ("heads", "trunk.bias_tokens")

    temperature: Tensor

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
        trunk: PublishedTrunk | None = None,
    ) -> None:
        super().__init__()
        kind: type[VisionTransformer] = VisionTransformer
        embed: Callable[..., nn.Module] = PatchEmbed if stem == "patch" else partial(_conv_embed, stride=patch)
        if tokens == "stems":
            if teachers < STEMS:
                raise ValueError(f"Co-advise's stems are for {STEMS} teachers or more, not {teachers}")
            kind, embed = StemmedTransformer, BiasStems
        self.trunk = trunk or kind(
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
        every_head = [nn.Linear(trunk.width if trunk else width, classes) for _ in range(1 + teachers)]
        for head in every_head:
            nn.init.trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)
        self.heads = nn.ModuleList(every_head)
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.trunk.forward_features(x)
        logits_BHC = torch.stack([head(tokens[:, k]) for k, head in enumerate(self.heads)], dim=1)
        return logits_BHC if self.training else logits_BHC.mean(1) / self.temperature

    def no_weight_decay(self) -> set[str]:
        """Return the names of the tokens and positions, which timm's optimisers then exclude from weight decay."""
        return {f"trunk.{name}" for name in self.trunk.no_weight_decay()}


def _conv_embed(
    img_size: int, patch_size: int, in_chans: int, embed_dim: int, stride: int, **kwargs: Any
) -> HybridEmbed:
    """Return a stack of 3x3 convolutions of stride 2, whose widths double up to that of the transformer."""
    depth = stride.bit_length() - 1
    channels = (*(max(16, embed_dim >> (depth - 1 - level)) for level in range(depth - 1)), embed_dim)
    stem = ConvStem(in_chans, depth=depth, channels=channels, stride=(2,) * depth)
    return HybridEmbed(stem, img_size=img_size, patch_size=1, in_chans=in_chans, embed_dim=embed_dim, proj=False)


def create_student(shape: StudentRecipe, teachers: int, classes: int, preprocessing: Preprocessing) -> Student:
    """Return an untrained student with one bias token for each of `teachers` teachers.

    Raises:
        RecipeError: the images can't be divided into patches, the tokens do not suit the number of teachers, or there
            is no such model or no weights for it.
    """
    size = preprocessing.input.height
    check_size(size, size_step(shape), "choose another student.model" if shape.model else "change student.patch")
    trunk = published_trunk(shape, teachers, size) if shape.model else None
    try:
        return Student(
            classes=classes,
            teachers=teachers,
            size=size,
            tokens=shape.tokens,
            stem=shape.stem,
            patch=shape.patch,
            width=shape.width,
            depth=shape.depth,
            heads=shape.heads,
            mlp_ratio=shape.mlp_ratio,
            drop_path=shape.drop_path,
            trunk=trunk,
        )
    except ValueError as fault:
        raise RecipeError(f"{fault}; name more teachers or set student.tokens") from fault


def size_step(shape: StudentRecipe) -> int:
    """Return the number of pixels of which the size of the images is a multiple; 1 if any size will do.

    Raises:
        RecipeError: there is no such model, or it is not a vision transformer.
    """
    if shape.model:
        return patch_of(shape.model)
    return shape.patch if shape.tokens == "learned" and shape.stem == "patch" else 1


def student_preprocessing(shape: StudentRecipe, preprocessing: Preprocessing) -> Preprocessing:
    """Return the preprocessing of the data as the student sees it: normalised as its published weights learned it."""
    known = timm.get_pretrained_cfg(shape.model) if shape.model and (shape.pretrained or shape.weights) else None
    return replace(
        preprocessing,
        mean=shape.mean or (tuple(known.mean) if known else preprocessing.mean),
        std=shape.std or (tuple(known.std) if known else preprocessing.std),
    )


class BiasStems(nn.Module):
    """The two stems of Co-advise: convolution and involution.

    They map `[B, in_chans, size, size]` to `2 x [B, patches, embed_dim]`. Each stem halves the resolution and makes
    patches from 64 channels; the involution stem is that of RedNet. If the size is not a multiple of the patch, zeros
    are added at the right and lower edges.
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
    """timm's vision transformer with `BiasStems`, whose means over the patches are added to the bias tokens."""

    def forward_features(self, x: Tensor) -> Tensor:  # type: ignore[override]  # without the masks of timm's method
        stems = self.patch_embed(x)
        tokens = self._pos_embed(sum(stems[1:], start=stems[0]))
        means = torch.stack([patches.mean(1) for patches in stems], dim=1)
        tokens = torch.cat([tokens[:, :1], tokens[:, 1 : 1 + STEMS] + means, tokens[:, 1 + STEMS :]], dim=1)
        features: Tensor = self.norm(self.blocks(self.norm_pre(tokens)))
        return features

"""The trunk of a student that is a vision transformer of timm, with or without its published weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..data import nearest_multiple
from ..errors import RecipeError
from ..recipe import StudentRecipe
from .weights import create_net, load_weights

SIMILAR = "vit_tiny_patch16_224"


class PublishedTrunk(nn.Module):
    """A transformer of timm, unchanged, with bias tokens beside its own tokens.

    It maps `[B, 3, size, size]` to `[B, 1 + bias tokens, width]`: first what timm's classifier of this net reads (the
    class token, the mean of class and distillation token, or a pooling of the patches), then the bias tokens. Without
    bias tokens, the former is exactly what timm computes. A bias token begins as a copy of the class token, so that its
    head reads published features from the first step on. It has no position of its own, which would only be a second
    vector to learn beside it.

    Args:
        net: the transformer, without a classifier.
        tokens: the number of bias tokens.
    """

    def __init__(self, net: VisionTransformer, tokens: int) -> None:
        super().__init__()
        self.net, self.width = net, net.embed_dim
        start = nn.init.trunc_normal_(torch.empty(1, tokens, net.embed_dim), std=0.02)
        if net.cls_token is not None:
            start += _placed(net)
        self.bias_tokens = nn.Parameter(start)

    def forward_features(self, x: Tensor) -> Tensor:
        net, count = self.net, self.bias_tokens.shape[1]
        tokens = net._pos_embed(net.patch_embed(x))
        tokens = torch.cat([tokens, self.bias_tokens.expand(x.shape[0], -1, -1)], dim=1)
        tokens = net.norm(net.blocks(net.norm_pre(tokens)))
        own, biased = tokens.split([tokens.shape[1] - count, count], dim=1)
        pooled = net.forward_head(own, pre_logits=True)
        return torch.cat([pooled[:, None], net.fc_norm(biased)], dim=1)

    def no_weight_decay(self) -> set[str]:
        """Return the names of the tokens and positions."""
        return {"bias_tokens", *(f"net.{name}" for name in self.net.no_weight_decay())}


def _placed(net: VisionTransformer) -> Tensor:
    """Return the class token [1, 1, width] as the blocks see it, with its position."""
    assert net.cls_token is not None
    token = net.cls_token.detach()
    if net.pos_embed is None or net.no_embed_class:
        return token
    return token + net.pos_embed.detach()[:, :1]


def published_trunk(shape: StudentRecipe, teachers: int, size: int) -> PublishedTrunk:
    """Return the trunk that `shape.model` names, with one bias token for each teacher, for images of `size` pixels.

    Args:
        size: a multiple of `patch_of(shape.model)`.

    Raises:
        RecipeError: there is no such model, or its weights can't be had.
    """
    assert shape.model is not None
    args = {"num_classes": 0, "img_size": size, "dynamic_img_size": False, "drop_path_rate": shape.drop_path}
    net = create_net(shape.model, pretrained=shape.pretrained, **args)
    assert isinstance(net, VisionTransformer)  # `patch_of` refuses others
    if shape.weights:
        load_weights(net, Path(shape.weights), whole=False)
    return PublishedTrunk(net, teachers)


@cache
def patch_of(model: str) -> int:
    """Return the distance of neighbouring tokens in pixels, of which the size of the images is a multiple.

    Raises:
        RecipeError: timm has no such model, or it is not a vision transformer.
    """
    with torch.device("meta"):
        net = create_net(model)
    if not isinstance(net, VisionTransformer):
        raise RecipeError(
            f"{model!r} is not a vision transformer with tokens that a student could add to; name one of timm's vit_ "
            f"or deit_ models as student.model, such as {SIMILAR}"
        )
    return int(net.patch_embed.feat_ratio())


def check_size(size: int, patch: int, otherwise: str) -> None:
    """Refuse images that do not divide into patches.

    Raises:
        RecipeError: the message names the nearest size that does.
    """
    if size % patch:
        raise RecipeError(
            f"images of {size} pixels do not divide into patches of {patch}; "
            f"set data.size (--size) to {nearest_multiple(size, patch)} or {otherwise}"
        )

"""Changes to a module that leave its answers alone and suit an engine better.

Shapes: B batch, H heads, N tokens, D width of a head.
"""

from __future__ import annotations

import copy

import torch
from timm.layers.attention import Attention, maybe_add_mask, resolve_self_attn_mask
from torch import nn


def explicit_attention(module: nn.Module) -> nn.Module:
    """A copy of `module` whose attention is spelled out in matrix products and a softmax.

    Fused attention falls apart into operators that XNNPACK does not take. timm's plain attention is also given a
    projection each for queries, keys and values; whatever else in timm has a fused path is switched to its other one.
    """
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is Attention:
                setattr(parent, name, ExplicitAttention(child))
            elif getattr(child, "fused_attn", False):
                child.fused_attn = False  # type: ignore[assignment]
    return module


class ExplicitAttention(nn.Module):
    """timm's `Attention`, for inference: the same weights, the scale folded into the queries' projection."""

    def __init__(self, source: Attention) -> None:
        super().__init__()
        self.heads, self.head_width = source.num_heads, source.head_dim
        self.query, self.key, self.value = _split(source.qkv, source.attn_dim)
        self.query_norm, self.key_norm = source.q_norm, source.k_norm
        self.norm, self.gate, self.project = source.norm, source.gate, source.proj
        self.scale = source.scale
        if isinstance(self.query_norm, nn.Identity):
            for parameter in self.query.parameters():
                parameter.data *= self.scale
            self.scale = 1.0

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None, is_causal: bool = False) -> torch.Tensor:
        """[B, N, width] to the same; the other arguments are timm's."""
        batch, tokens, _ = x.shape
        q_BHND = self.query_norm(self._heads(self.query(x)))
        k_BHND = self.key_norm(self._heads(self.key(x)))
        v_BHND = self._heads(self.value(x))
        if self.scale != 1.0:
            q_BHND = q_BHND * self.scale
        scores = torch.bmm(q_BHND.flatten(0, 1), k_BHND.flatten(0, 1).transpose(1, 2))
        if attn_mask is not None or is_causal:
            scores = scores.reshape(batch, self.heads, tokens, tokens)
            scores = maybe_add_mask(scores, resolve_self_attn_mask(tokens, scores, attn_mask, is_causal)).flatten(0, 1)
        mixed = torch.bmm(scores.softmax(-1), v_BHND.flatten(0, 1))
        mixed = mixed.reshape(batch, self.heads, tokens, self.head_width).transpose(1, 2).flatten(2)
        mixed = self.norm(mixed)
        if self.gate is not None:
            mixed = mixed * self.gate(x).sigmoid()
        projected: torch.Tensor = self.project(mixed)
        return projected

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(*x.shape[:2], self.heads, self.head_width).transpose(1, 2)


def _split(qkv: nn.Linear, width: int) -> list[nn.Linear]:
    parts = []
    for index in range(3):
        rows = slice(index * width, (index + 1) * width)
        part = nn.Linear(qkv.in_features, width, bias=qkv.bias is not None, device=qkv.weight.device)
        part.weight.data = qkv.weight.data[rows].clone()
        if qkv.bias is not None:
            part.bias.data = qkv.bias.data[rows].clone()
        parts.append(part)
    return parts

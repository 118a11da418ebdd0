"""Rewrites change how a module computes, never what it answers, and never the caller's module."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers.attention import Attention
from torch import nn

from runtimes.rewrites import ExplicitAttention, explicit_attention


def randomised(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return module.eval()


@pytest.mark.parametrize(
    "options",
    [
        {"qkv_bias": True},
        {"qkv_bias": False},
        {"qkv_bias": True, "qk_norm": True, "norm_layer": nn.LayerNorm},
        {"qkv_bias": True, "scale_norm": True, "norm_layer": nn.LayerNorm},
        {"qkv_bias": True, "gated": True},
        {"qkv_bias": True, "attn_head_dim": 24, "dim_out": 20},
    ],
)
def test_attention_of_every_kind_answers_the_same(options):
    attention = randomised(Attention(48, num_heads=3, **options))
    tokens = torch.randn(2, 11, 48)
    with torch.no_grad():
        torch.testing.assert_close(ExplicitAttention(attention)(tokens), attention(tokens), rtol=0, atol=1e-5)


def test_masks_are_honoured():
    attention = randomised(Attention(48, num_heads=3, qkv_bias=True))
    tokens = torch.randn(2, 6, 48)
    keep = torch.rand(2, 1, 6, 6) > 0.4
    keep[..., 0] = True
    for mask in ({"attn_mask": keep}, {"attn_mask": torch.randn(6, 6)}, {"is_causal": True}):
        with torch.no_grad():
            torch.testing.assert_close(
                ExplicitAttention(attention)(tokens, **mask), attention(tokens, **mask), rtol=0, atol=1e-5
            )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2, "reg_tokens": 2}),
        ("deit_tiny_distilled_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2}),
        ("vit_relpos_small_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2}),
        ("eva02_tiny_patch14_224", {"img_size": 28, "depth": 2}),
    ],
)
def test_timm_transformers_answer_the_same_without_fused_attention(name, options):
    module = randomised(timm.create_model(name, num_classes=7, **options))
    size = options["img_size"]
    picture = torch.randn(1, 3, size, size)
    rewritten = explicit_attention(module)
    with torch.no_grad():
        torch.testing.assert_close(rewritten(picture), module(picture), rtol=0, atol=1e-5)
    operators = {str(node.target) for node in torch.export.export(rewritten, (picture,)).graph.nodes}
    assert not [operator for operator in operators if "scaled_dot_product" in operator]


def test_the_caller_s_module_is_left_alone(vit):
    before = copy.deepcopy(vit.state_dict())
    explicit_attention(vit)
    assert type(vit.blocks[0].attn) is Attention
    assert vit.blocks[0].attn.fused_attn
    for name, value in vit.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)

"""Operators spelled out answer like the operators, and leave a backend nothing to refuse."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from runtimes import rewrites
from runtimes.base import Signature
from runtimes.engines import load_lowering
from sdk import Preprocessing
from sdk.exporting.deployed import Deployed
from trainer.models import Student

pytestmark = pytest.mark.slow

ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(48,), (5, 48)])
@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm(shape, affine):
    torch.manual_seed(0)
    x = 3 * torch.randn(2, 5, 48) + 1
    parameters = (torch.randn(shape), torch.randn(shape)) if affine else (None, None)
    close(rewrites.layer_norm(x, shape, *parameters, 1e-6), layer_norm(x, shape, *parameters, 1e-6))


def test_layer_norm_of_what_hardly_varies():
    x = 100 + 1e-3 * torch.randn(4, 48)
    close(rewrites.layer_norm(x.double(), (48,)), layer_norm(x.double(), (48,)))


@pytest.mark.parametrize("width", [48, 768, 4096])
@pytest.mark.parametrize("largest", [0, 1e-3, 1, 300, 20_000])
@pytest.mark.parametrize("alone", [False, True])
def test_layer_norm_in_fp16_where_squares_are_infinite(width, largest, alone):
    # Many large numbers, or one among small ones.
    torch.manual_seed(0)
    x = torch.randn(8, width)
    if alone:
        x[:, 3] = largest
    else:
        x = 0.2 * largest * x.clamp(-3, 3)
    expected = layer_norm(x.half().double(), (width,))
    found = rewrites.layer_norm(x.half(), (width,), eps=1e-5)
    torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=4e-3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.randn(6, 6)},
        {"attn_mask": torch.ones(2, 1, 6, 6, dtype=torch.bool).tril(1)},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_attention(options):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 6, 8).unbind(0)
    close(rewrites.attention(query, key, value, **options), scaled_dot_product_attention(query, key, value, **options))


def test_attention_with_shared_keys():
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)
    expected = scaled_dot_product_attention(query, key, value, enable_gqa=True)
    close(rewrites.attention(query, key, value, enable_gqa=True), expected)


@pytest.mark.parametrize(("dim", "index"), [(0, 0), (1, -1), (-1, 2), (-3, 1)])
def test_select(dim, index):
    x = torch.randn(2, 3, 4)
    assert torch.equal(rewrites.select(x, dim, index), x.select(dim, index))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_unbind(dim):
    x = torch.randn(2, 3, 4)
    for found, expected in zip(rewrites.unbind(x, dim), x.unbind(dim), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dims", [(1,), (-1,), (1, 2), (2, 3), (0, 3)], ids=str)
def test_mean(dims, keepdim):
    x = torch.randn(2, 3, 4, 5)
    program = torch.export.export(Mean(dims, keepdim), (x,)).run_decompositions(
        {torch.ops.aten.mean.dim: rewrites.mean}
    )
    close(program.module()(x), x.mean(dims, keepdim))


class Mean(nn.Module):
    def __init__(self, dims, keepdim):
        super().__init__()
        self.dims, self.keepdim = dims, keepdim

    def forward(self, x):
        return x.mean(self.dims, self.keepdim)


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize(("dim", "shape"), [(0, (3, 4)), (1, (2, 49, 3, 5)), (-1, (2, 25)), (3, (2, 1, 3, 9, 4))])
def test_total(dim, shape, keepdim):
    torch.manual_seed(0)
    x = torch.randn(shape)
    close(rewrites.total(x, [dim], keepdim), x.sum(dim, keepdim))


@pytest.mark.parametrize(("x", "dims"), [(torch.ones(3, 4), [0, 1]), (torch.ones(3, 1), [1]), (torch.arange(4), [0])])
def test_other_sums_stay(x, dims):
    assert rewrites.total(x, dims) is NotImplemented


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (8, {"kernel_size": (2, 2), "ceil_mode": True, "count_include_pad": False}),
        (9, {"kernel_size": (3, 3), "stride": (2, 2), "ceil_mode": True}),
        (
            6,
            {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "ceil_mode": True, "count_include_pad": False},
        ),
    ],
)
def test_avg_pool(size, options):
    x = torch.randn(2, 3, size, size)
    assert torch.equal(rewrites.avg_pool(x, **options), nn.functional.avg_pool2d(x, **options))


def test_avg_pool_with_a_window_that_is_cut_stays():
    assert rewrites.avg_pool(torch.randn(2, 3, 7, 8), (2, 2), ceil_mode=True) is NotImplemented
    assert rewrites.avg_pool(torch.randn(2, 3, 8, 8), (2, 2)) is NotImplemented


def test_a_pooling_to_one_number_is_a_mean():
    x = torch.randn(2, 3, 5, 7)
    close(rewrites.global_pool(x, [1, 1]), nn.functional.adaptive_avg_pool2d(x, 1))
    assert rewrites.global_pool(x, [2, 2]) is NotImplemented


def test_gelu_is_off_by_less_than_fp16_is():
    x = torch.linspace(-10, 10, 10_001)
    exact = nn.functional.gelu(x)
    assert (rewrites.gelu(x) - exact).abs().max() < 5e-4
    close(rewrites.gelu(x), nn.functional.gelu(x, approximate="tanh"))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2, "reg_tokens": 2}),
        ("deit_tiny_distilled_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2}),
        ("vit_relpos_small_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2}),
        ("eva02_tiny_patch14_224", {"img_size": 28, "depth": 2}),
        ("swin_tiny_patch4_window7_224", {"img_size": 56, "depths": (1, 1)}),
        ("convnext_atto", {"depths": (1, 1, 1, 1)}),
    ],
)
def test_timm_s_nets_answer_the_same(name, options):
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=7, **options).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    size = options.get("img_size", 64)
    image = torch.randn(1, 3, size, size)
    program = torch.export.export(module, (image,)).run_decompositions(rewrites.XNNPACK)
    with torch.no_grad():
        close(program.module()(image), module(image))
    left = [node for node in program.graph.nodes if node.target in rewrites.XNNPACK]
    others = [node for node in left if node.target != torch.ops.aten.avg_pool2d.default]  # those of whole windows stay
    assert all(node.target == torch.ops.aten.mean.dim and node.args[1:] == ([-2, -1], True) for node in others)


SELF_ATTENTION = {"img_size": 32, "patch_size": 8, "depth": 2}


@pytest.mark.parametrize(
    ("name", "options", "left_together"),
    [
        ("vit_tiny_patch16_224", {**SELF_ATTENTION, "reg_tokens": 2}, 0),
        ("vit_small_patch16_224", SELF_ATTENTION, 0),
        ("deit_tiny_distilled_patch16_224", SELF_ATTENTION, 0),
        ("vit_tiny_patch16_224", {**SELF_ATTENTION, "qk_norm": True}, 2),
        ("beit_base_patch16_224", {**SELF_ATTENTION, "embed_dim": 48, "num_heads": 3}, 2),  # has a mask
        ("vit_relpos_small_patch16_224", SELF_ATTENTION, 2),
        ("eva02_tiny_patch14_224", {"img_size": 28, "depth": 2}, 2),
    ],
)
def test_heads_apart_answer_like_heads_together(name, options, left_together):
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=7, **options).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    size = options["img_size"]
    example, images = torch.randn(2, 3, size, size), torch.randn(3, 3, size, size)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    rewrites.split_heads(program)
    program = program.run_decompositions({})
    with torch.no_grad():
        close(program.module()(images), module(images))
    assert len(program.graph.find_nodes(op="call_function", target=ATTENTION)) == left_together


class Attention(nn.Module):
    """Self-attention among windows of two times six tokens, or with answers that are used twice."""

    def __init__(self, windows, watched):
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.windows, self.watched = windows, watched

    def forward(self, x):
        tokens = 6 // self.windows
        parts = self.qkv(x).reshape(2 * self.windows, tokens, 3, 2, 4).permute(2, 0, 3, 1, 4)
        answers = scaled_dot_product_attention(*parts.unbind(0))
        joined = answers.transpose(1, 2).reshape(2, 6, 8)
        return joined + answers.abs().mean() if self.watched else joined


@pytest.mark.parametrize(
    ("windows", "watched", "apart"), [(1, False, True), (1, True, False), (2, False, False), (3, False, False)]
)
def test_heads_that_are_not_just_columns_stay_together(windows, watched, apart):
    torch.manual_seed(0)
    module, x = Attention(windows, watched), torch.randn(2, 6, 8)
    program = torch.export.export(module, (x,))
    rewrites.split_heads(program)
    program = program.run_decompositions({})
    close(program.module()(x), module(x))
    assert len(program.graph.find_nodes(op="call_function", target=ATTENTION)) == (0 if apart else 1)


@pytest.mark.parametrize("tokens", [pytest.param("learned", marks=pytest.mark.long), "stems"])
def test_the_student_is_one_delegate(tokens, tmp_path):
    torch.manual_seed(0)
    student = Student(classes=7, teachers=2, size=32, tokens=tokens, width=48, depth=1).eval()
    module = Deployed(student, Preprocessing.square(32))
    outcome = load_lowering("executorch").lower(
        module,
        signature=Signature(32, 32, 7),
        precision="fp32",
        backend="xnnpack",
        quantization=None,
        manifest="{}",
        folder=tmp_path,
    )
    assert outcome is not None
    assert outcome.delegation is not None
    assert outcome.delegation.delegates == 1

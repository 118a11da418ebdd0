"""Rewrites of a program into operators that a backend supports or runs faster, exact except for rounding.

`ExportedProgram.run_decompositions` replaces each operator by the function below with the same arguments, in any
module. Shapes: N tokens, D width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import getitem
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Graph, Node
from torch.nn.functional import linear

aten = torch.ops.aten


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """Compute layer norm with matrix products for its two means.

    XNNPACK has neither the operator nor a mean over the last dimension. Left as it is, each norm cuts the graph in two.
    """
    width = math.prod(normalized_shape)
    mean = torch.full((1, width), 1 / width, dtype=x.dtype)
    rows = x.reshape(-1, width)
    centred = rows - linear(rows, mean)
    offset: Tensor | float = eps
    if x.dtype == torch.float16:
        # The square of anything above 256 would be infinite, and the norm 0. So numbers of about one are squared: the
        # norm of `centred / size` with `eps / size**2` is the same for any size.
        size = linear(centred.abs(), 16 * mean) + 1e-4
        root = torch.full((1, 1), math.sqrt(eps), dtype=x.dtype) / size
        centred, offset = centred / size, root * root
    scaled = centred * torch.rsqrt(linear(centred * centred, mean) + offset)
    scaled = scaled.reshape(x.shape)
    if weight is not None:
        scaled = scaled * weight
    return scaled if bias is None else scaled + bias


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute attention [..., N, D] with two matrix products and a softmax.

    The operator's own decomposition guards against fully masked rows with operators that XNNPACK lacks. The translation
    of torch to ONNX reshapes the keys around their transposition, and ONNX Runtime then can't fuse it.
    """
    if enable_gqa:
        shared = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(shared, -3), value.repeat_interleave(shared, -3)
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1) @ value


def select(x: Tensor, dim: int, index: int) -> Tensor:
    """Select one entry along a dimension with a slice and a reshape; XNNPACK has both."""
    dim, index = dim % x.ndim, index % x.shape[dim]
    part: Tensor = aten.slice.Tensor(x, dim, index, index + 1)
    return part.reshape(*x.shape[:dim], *x.shape[dim + 1 :])


def unbind(x: Tensor, dim: int = 0) -> list[Tensor]:
    """Select all entries along a dimension, as queries, keys and values are taken out of one projection."""
    return [select(x, dim, index) for index in range(x.shape[dim])]


def mean(x: Tensor, dim: Sequence[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    """Compute a mean as a matrix product; XNNPACK has it only over H and W of [B, C, H, W] with `keepdim`."""
    dims = sorted(each % x.ndim for each in dim or range(x.ndim))
    if dtype is not None or (x.ndim == 4 and dims == [2, 3] and keepdim):
        return NotImplemented  # keep the operator
    if x.ndim == 4 and dims == [2, 3]:
        return x.mean(dims, keepdim=True).reshape(x.shape[:2])
    kept = [each for each in range(x.ndim) if each not in dims]
    count = math.prod(x.shape[each] for each in dims)
    rows = x.permute(*kept, *dims).reshape(-1, count)
    means = linear(rows, torch.full((1, count), 1 / count, dtype=x.dtype))
    return means.reshape([1 if each in dims else x.shape[each] for each in range(x.ndim) if keepdim or each in kept])


def total(x: Tensor, dim: Sequence[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    """Compute the sum along one dimension as a mean pooling; XNNPACK has no sum."""
    if dtype is not None or dim is None or len(dim) != 1 or x.shape[dim[0]] < 2 or not x.is_floating_point():
        return NotImplemented  # keep the operator
    axis = dim[0] % x.ndim
    count, behind = x.shape[axis], math.prod(x.shape[axis + 1 :])
    means = aten.avg_pool2d.default(x.reshape(1, -1, count, behind), [count, 1], [count, 1])
    kept = [1 if place == axis else length for place, length in enumerate(x.shape) if keepdim or place != axis]
    return (means * float(count)).reshape(kept)


def avg_pool(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Compute a mean pooling without rounding up where all windows are whole; XNNPACK can't round up."""
    windows = list(zip(x.shape[-2:], kernel_size, stride or kernel_size, padding, strict=False))
    whole = [(side + 2 * edge - kernel) % step == 0 for side, kernel, step, edge in windows]
    if not ceil_mode or whole != [True, True]:
        return NotImplemented  # keep the operator
    return aten.avg_pool2d.default(x, kernel_size, stride, padding, False, count_include_pad, divisor_override)


def global_pool(x: Tensor, output_size: Sequence[int]) -> Any:
    """Compute a pooling to one number as a mean. Its own decomposition changes strides, which no backend takes."""
    return x.mean([-2, -1], keepdim=True) if list(output_size) == [1, 1] else NotImplemented  # keep the operator


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """Compute GELU with a hyperbolic tangent (Hendrycks and Gimpel, 2016, eq. 2), with an error of at most 5e-4."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


XNNPACK: dict[Any, Callable[..., Any]] = {
    aten.layer_norm.default: layer_norm,
    aten.scaled_dot_product_attention.default: attention,
    aten.select.int: select,
    aten.unbind.int: unbind,
    aten.mean.dim: mean,
    aten.sum.dim_IntList: total,
    aten.avg_pool2d.default: avg_pool,
    aten.adaptive_avg_pool2d.default: global_pool,
}
"""Rewrites of operators that its partitioner would leave outside. With them, a timm transformer is one delegate."""

XNNPACK_FP16 = {**XNNPACK, aten.gelu.default: gelu}
"""At fp16, XNNPACK lacks GELU as well."""

ONNX: dict[Any, Callable[..., Any]] = {aten.scaled_dot_product_attention.default: attention}
"""Rewrites that ONNX Runtime fuses better than the translation of torch."""


def split_heads(program: ExportedProgram) -> None:
    """Compute self-attention head by head, each on its columns of the projection to queries, keys and values.

    When all heads are computed together, ONNX Runtime copies them four times, and gives three heads to two threads as
    two and one. Attention of another form, or with a mask, is not changed.
    """
    graph = program.graph
    for attention in graph.find_nodes(op="call_function", target=aten.scaled_dot_product_attention.default):
        projection, joined = _projection(attention), _joined_heads(attention)
        if projection is None or joined is None:
            continue
        _, heads, _, width = attention.meta["val"].shape
        scale = attention.kwargs.get("scale") or width**-0.5
        with graph.inserting_before(attention):
            columns = graph.call_function(aten.split.Tensor, (projection, width, -1))
            parts = [graph.call_function(getitem, (columns, number)) for number in range(3 * heads)]
            answers = [_one_head(graph, parts[head::heads], scale) for head in range(heads)]
            together = graph.call_function(aten.cat.default, (answers, -1))
        inserted = columns
        while inserted is not attention:
            inserted.meta["nn_module_stack"] = attention.meta["nn_module_stack"]
            inserted = inserted.next
        joined.replace_all_uses_with(together)
        # Attention can be random, so it never counts as dead code.
        for unused in (joined, joined.all_input_nodes[0], attention):
            graph.erase_node(unused)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def _one_head(graph: Graph, parts: Sequence[Node], scale: Any) -> Node:
    """Return the node of the attention [B, N, D] of one head, computed as in `attention` from query, key and value.

    If `run_decompositions` had to replace it instead, an export would take half as long again.
    """
    query, key, value = parts
    keys = graph.call_function(aten.transpose.int, (key, -2, -1))
    scores = graph.call_function(aten.matmul.default, (graph.call_function(aten.mul.Tensor, (query, scale)), keys))
    return graph.call_function(aten.matmul.default, (graph.call_function(aten.softmax.int, (scores, -1)), value))


def _projection(attention: Node) -> Node | None:
    """Return the node [B, N, 3 * heads * D] whose thirds are the arguments of an attention [B, heads, N, D]."""
    if len(attention.args) != 3 or attention.kwargs.keys() - {"scale"}:
        return None
    thirds: list[Any] = list(attention.args)
    if any(third.target is not getitem for third in thirds):
        return None
    (unbind, *others), places = zip(*(third.args for third in thirds), strict=True)
    if places != (0, 1, 2) or others != [unbind, unbind] or unbind.target != aten.unbind.int or unbind.args[1:]:
        return None
    (permute,) = unbind.args
    if permute.target != aten.permute.default or permute.args[1] != [2, 0, 3, 1, 4]:
        return None
    reshape = permute.args[0]
    if reshape.target != aten.reshape.default:
        return None
    projection: Node = reshape.args[0]
    _, heads, tokens, width = attention.meta["val"].shape
    return projection if projection.meta["val"].shape[1:] == (tokens, 3 * heads * width) else None


def _joined_heads(attention: Node) -> Node | None:
    """Return the node [B, N, heads * D] that is the only use of an attention [B, heads, N, D]."""
    node = attention
    for target, rest in ((aten.transpose.int, (1, 2)), (aten.reshape.default, None)):
        if len(node.users) != 1:
            return None
        (node,) = node.users
        if node.target != target or rest not in (None, node.args[1:]):
            return None
    _, heads, tokens, width = attention.meta["val"].shape
    return node if node.meta["val"].shape[1:] == (tokens, heads * width) else None

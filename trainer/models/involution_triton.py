"""Involution as Triton kernels for GPUs. Every sum is kept in registers, in float32 (in float64 for float64).

Both gradients are computed like the output: one program computes each element, in a fixed order and without atomics, so
equal operands give equal bits. Tensors are read by their strides, so no memory layout needs a copy.

Shapes: B batch, C channels, G groups, K kernel size, H x W places, H' x W' = ceil(H / stride) x ceil(W / stride).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 1024
"""The elements in the tile of a program, places x channels of a group: eight for each thread of four warps."""


# torch.compile does not look inside; it needs only the shapes, and the kernels contain nothing that it could fuse.
@torch.library.custom_op("libkd::involution", mutates_args=())
def fused_involution(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Compute `involution` with a kernel. The shapes have to match; they are not checked.

    Args:
        x: [B, C, H, W] float16, bfloat16, float32 or float64, with any strides.
        weight: [B, G, K*K, H', W'], of one of these dtypes, which may differ from that of x, with any strides.
        stride: the distance of neighbouring outputs, in places of the input.

    Returns:
        [B, C, H', W'] of the dtype and memory layout of x.
    """
    y: Tensor = _empty_answer(x, weight, stride)
    _launch(_answer, y.shape[2:], x, weight, y, x, weight, stride)
    return y


@torch.library.custom_op("libkd::involution_gradients", mutates_args=())
def fused_gradients(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Return the gradients with respect to x and to weight, in their dtypes and layouts; `grad` is [B, C, H', W']."""
    grad_x, grad_weight = torch.empty_like(x), torch.empty_like(weight)
    _launch(_gradient_of_x, x.shape[2:], grad, weight, grad_x, x, weight, stride)
    _launch(_gradient_of_weight, weight.shape[3:], grad, x, grad_weight, x, weight, stride)
    return grad_x, grad_weight


@fused_involution.register_fake
def _empty_answer(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    size = (*x.shape[:2], *weight.shape[3:])
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout)


@fused_gradients.register_fake
def _empty_gradients(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight)


def _remember(ctx, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    x, weight, ctx.stride = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return *fused_gradients(grad, *ctx.saved_tensors, ctx.stride), None


fused_involution.register_autograd(_backward, setup_context=_remember)


def _launch(
    kernel: triton.JITFunction,
    size: torch.Size,
    first: Tensor,
    second: Tensor,
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: int,
) -> None:
    """Run a kernel over all places of `size`, for each image and group. The kernel writes `out`."""
    if out.numel() == 0:
        return
    (batch, groups), channels = weight.shape[:2], x.shape[1] // weight.shape[1]
    tile_channels = triton.next_power_of_2(channels)
    tile_places = max(1, TILE // tile_channels)
    with torch.cuda.device_of(x):
        kernel[(batch * groups * triton.cdiv(size[0] * size[1], tile_places),)](
            first,
            second,
            out,
            first.stride(),
            second.stride(),
            out.stride(),
            groups,
            channels,
            tuple(x.shape[2:]),
            tuple(weight.shape[3:]),
            STRIDE=stride,
            KERNEL=round(weight.shape[2] ** 0.5),
            SUM=tl.float64 if x.dtype == torch.float64 else tl.float32,
            PLACES=tile_places,
            CHANNELS=tile_channels,
        )


@triton.jit
def _answer(
    x,
    weight,
    y,
    x_strides,
    weight_strides,
    y_strides,
    groups,
    channels,
    size,
    out_size,
    STRIDE: tl.constexpr,
    KERNEL: tl.constexpr,
    SUM: tl.constexpr,
    PLACES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    image, group, row, column, inside = _places(out_size, groups, PLACES)
    kernels = _at(weight, weight_strides, image, group) + row * weight_strides[3] + column * weight_strides[4]
    x = _at(x, x_strides, image, group * channels)
    total = tl.zeros((PLACES, CHANNELS), SUM)
    for u in range(KERNEL):
        for v in tl.static_range(KERNEL):
            from_row, from_column = row * STRIDE + u - KERNEL // 2, column * STRIDE + v - KERNEL // 2
            there = inside & _within(from_row, from_column, size)
            factor = tl.load(kernels + (u * KERNEL + v) * weight_strides[2], there, 0).to(SUM)
            total += factor[:, None] * _load(x, x_strides, from_row, from_column, there, channels, CHANNELS).to(SUM)
    y = _at(y, y_strides, image, group * channels)
    _store(y, y_strides, row, column, inside, channels, total, CHANNELS)


@triton.jit
def _gradient_of_x(
    grad,
    weight,
    grad_x,
    grad_strides,
    weight_strides,
    grad_x_strides,
    groups,
    channels,
    size,
    out_size,
    STRIDE: tl.constexpr,
    KERNEL: tl.constexpr,
    SUM: tl.constexpr,
    PLACES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    image, group, row, column, inside = _places(size, groups, PLACES)
    kernels = _at(weight, weight_strides, image, group)
    grad = _at(grad, grad_strides, image, group * channels)
    total = tl.zeros((PLACES, CHANNELS), SUM)
    for u in range(KERNEL):
        for v in tl.static_range(KERNEL):
            # The output whose kernel reads this place with its element (u, v). With a stride, there may be none.
            below, right = row - u + KERNEL // 2, column - v + KERNEL // 2
            to_row, to_column = below // STRIDE, right // STRIDE
            there = inside & (below >= 0) & (right >= 0) & _within(to_row, to_column, out_size)
            there = there & (below % STRIDE == 0) & (right % STRIDE == 0)
            place = (u * KERNEL + v) * weight_strides[2] + to_row * weight_strides[3] + to_column * weight_strides[4]
            factor = tl.load(kernels + place, there, 0).to(SUM)
            total += factor[:, None] * _load(grad, grad_strides, to_row, to_column, there, channels, CHANNELS).to(SUM)
    grad_x = _at(grad_x, grad_x_strides, image, group * channels)
    _store(grad_x, grad_x_strides, row, column, inside, channels, total, CHANNELS)


@triton.jit
def _gradient_of_weight(
    grad,
    x,
    grad_weight,
    grad_strides,
    x_strides,
    grad_weight_strides,
    groups,
    channels,
    size,
    out_size,
    STRIDE: tl.constexpr,
    KERNEL: tl.constexpr,
    SUM: tl.constexpr,
    PLACES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    image, group, row, column, inside = _places(out_size, groups, PLACES)
    grad = _at(grad, grad_strides, image, group * channels)
    grad = _load(grad, grad_strides, row, column, inside, channels, CHANNELS).to(SUM)
    x = _at(x, x_strides, image, group * channels)
    into = _at(grad_weight, grad_weight_strides, image, group)
    into += row * grad_weight_strides[3] + column * grad_weight_strides[4]
    for u in range(KERNEL):
        for v in tl.static_range(KERNEL):
            from_row, from_column = row * STRIDE + u - KERNEL // 2, column * STRIDE + v - KERNEL // 2
            there = inside & _within(from_row, from_column, size)
            total = tl.sum(grad * _load(x, x_strides, from_row, from_column, there, channels, CHANNELS).to(SUM), axis=1)
            tl.store(into + (u * KERNEL + v) * grad_weight_strides[2], total, inside)


@triton.jit
def _places(size, groups, PLACES: tl.constexpr):
    """Return the image of this program, its group, the rows and columns of its places, and which of these exist.

    The groups of the same places follow one another, as they do in memory in the channels-last layout.
    """
    program, blocks = tl.program_id(0), tl.cdiv(size[0] * size[1], PLACES)
    place = program // groups % blocks * PLACES + tl.arange(0, PLACES)
    return program // groups // blocks, program % groups, place // size[1], place % size[1], place < size[0] * size[1]


@triton.jit
def _within(row, column, size):
    return (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])


@triton.jit
def _at(pointer, strides, image, channel):
    """Return the address of a channel of an image; in 64 bits, which a large batch needs."""
    return pointer + image.to(tl.int64) * strides[0] + channel.to(tl.int64) * strides[1]


@triton.jit
def _load(pointer, strides, row, column, there, channels, CHANNELS: tl.constexpr):
    """Return the values [PLACES, CHANNELS] of a group; 0 where a place or a channel does not exist."""
    channel = tl.arange(0, CHANNELS)[None, :]
    offsets = (row * strides[2] + column * strides[3])[:, None] + channel * strides[1]
    return tl.load(pointer + offsets, there[:, None] & (channel < channels), 0)


@triton.jit
def _store(pointer, strides, row, column, there, channels, values, CHANNELS: tl.constexpr):
    channel = tl.arange(0, CHANNELS)[None, :]
    offsets = (row * strides[2] + column * strides[3])[:, None] + channel * strides[1]
    tl.store(pointer + offsets, values, there[:, None] & (channel < channels))

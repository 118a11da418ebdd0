"""Involution (Li et al., CVPR 2021, arXiv 2103.06255): each place has its own kernel, which channels share.

Shapes: B batch, C channels, G groups, K kernel size, H x W places.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

TRITON = find_spec("triton") is not None
"""True if Triton is installed. It comes with torch for GPUs on Linux, and with few other builds."""
ELEMENTS_PER_CORE = 2**18
"""The elements of an operand that a CPU core processes at once. They are read K*K times, and stay in its cache."""


def involution(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """Weight the K x K neighbourhood of each place with the kernel of that place, and sum.

    `y[b, c, i, j] = sum_uv weight[b, c // (C/G), u*K + v, i, j] * x[b, c, i*stride + u - K//2, j*stride + v - K//2]`

    Unlike an implementation with `unfold`, this one never stores K*K copies of the input. On a GPU with Triton, the sum
    is one kernel that accumulates in float32 for every dtype. Elsewhere it is computed in the dtype of x, over K*K
    shifted views of the padded input. The backward pass uses the same shifts; it can't be differentiated again. When a
    program is exported, all neighbours are stored, because lowering takes time for each operator and not for each byte.

    Args:
        x: [B, C, H, W], floating point, in any memory layout.
        weight: [B, G, K*K, H', W'] of the dtype of x, with K odd and H' = ceil(H / stride); C is a multiple of G.
        stride: the distance of neighbouring outputs, in places of the input.

    Returns:
        [B, C, H', W'], of the dtype of x.

    Raises:
        ValueError: the shapes do not match.
    """
    if torch.compiler.is_exporting():
        return _few_operators(_padded(x, weight), weight, stride)
    _check_shapes(x, weight, stride)
    if _fused(x):
        from .involution_triton import fused_involution

        fused: Tensor = fused_involution(x, weight, stride)
        return fused
    summed: Tensor = _Involution.apply(x, weight, stride)
    return summed


def _fused(x: Tensor) -> bool:
    return TRITON and x.is_cuda and not torch.compiler.is_exporting()


def _check_shapes(x: Tensor, weight: Tensor, stride: int) -> None:
    (batch, channels, height, width), (groups, elements) = x.shape, weight.shape[1:3]
    expected = (batch, groups, elements, -(-height // stride), -(-width // stride))
    kernel = _kernel_size(weight)
    if weight.shape != expected or channels % groups or kernel % 2 == 0 or kernel**2 != elements:
        raise ValueError(f"weight {tuple(weight.shape)} does not fit x {tuple(x.shape)} at stride {stride}")


def _padded(x: Tensor, weight: Tensor) -> Tensor:
    pad = _kernel_size(weight) // 2
    return F.pad(x, (pad, pad, pad, pad))


def _kernel_size(weight: Tensor) -> int:
    return math.isqrt(int(weight.shape[2]))  # under torch.jit.trace, as in OpenVINO, a size is a tensor


def _shifts(x_padded: Tensor, weight: Tensor, stride: int) -> list[Tensor]:
    """Return the K*K neighbours of all places, as views [B, G, C/G, H', W'] of the padded input."""
    kernel, groups = _kernel_size(weight), weight.shape[1]
    height, width = weight.shape[-2:]
    grouped = x_padded.unflatten(1, (groups, -1))
    return [
        grouped[..., u : u + (height - 1) * stride + 1 : stride, v : v + (width - 1) * stride + 1 : stride]
        for u in range(kernel)
        for v in range(kernel)
    ]


def _gather(x_padded: Tensor, weight: Tensor, stride: int) -> Tensor:
    kernels = weight.unsqueeze(3).unbind(2)  # K*K of [B, G, 1, H', W']
    shifts = _shifts(x_padded, weight, stride)
    total = shifts[0] * kernels[0]
    for shift, kernel in zip(shifts[1:], kernels[1:], strict=True):
        total = torch.addcmul(total, shift, kernel)
    return total.flatten(1, 2)


def _few_operators(x_padded: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Compute the same with K slices along the width, K along the height, a product and a sum."""
    kernel, (groups, _, height, width) = _kernel_size(weight), weight.shape[1:]
    across, down = (width - 1) * stride + 1, (height - 1) * stride + 1
    columns = torch.cat([x_padded[..., v : v + across : stride] for v in range(kernel)], 2).unflatten(2, (kernel, -1))
    neighbours = torch.cat([columns[..., u : u + down : stride, :] for u in range(kernel)], 2)  # [B, C, K*K, H', W']
    products = neighbours.flatten(-2).unflatten(1, (groups, -1)) * weight.flatten(-2).unflatten(1, (groups, 1))
    summed: Tensor = products.sum(3).flatten(1, 2).unflatten(-1, (height, width))
    return summed


def _gradients(grad: Tensor, x_padded: Tensor, weight: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Return the gradients with respect to x (without its padding) and to weight; `grad` is [B, C, H', W']."""
    grad = grad.unflatten(1, (weight.shape[1], -1))
    grad_x, grad_weight = torch.zeros_like(x_padded), torch.empty_like(weight)
    shifts, into = _shifts(x_padded, weight, stride), _shifts(grad_x, weight, stride)
    for place, (shift, target) in enumerate(zip(shifts, into, strict=True)):
        target.addcmul_(grad, weight[:, :, place].unsqueeze(2))
        grad_weight[:, :, place] = (grad * shift).sum(2)
    pad = _kernel_size(weight) // 2
    return F.pad(grad_x, (-pad, -pad, -pad, -pad)), grad_weight


def _parts(x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split a batch into parts that are processed one after another: on a CPU, parts that fit into its caches."""
    images = len(x)
    # A compiler fuses the K*K passes into one, which does not need parts.
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        images = max(1, ELEMENTS_PER_CORE * torch.get_num_threads() // max(1, x[0].numel()))
    return zip(*(tensor.split(images) for tensor in (x, *others)), strict=True)


class _Context(Protocol):
    """The memory of the forward pass for the backward pass."""

    stride: int
    saved_tensors: tuple[Tensor, Tensor]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _Involution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return torch.cat([_gather(_padded(x, weight), weight, stride) for x, weight in _parts(x, weight)])

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        parts = [
            _gradients(grad, _padded(x, weight), weight, ctx.stride)
            for x, weight, grad in _parts(*ctx.saved_tensors, grad)
        ]
        grad_x, grad_weight = (torch.cat(gradients) for gradients in zip(*parts, strict=True))
        return grad_x, grad_weight, None


class Involution(nn.Module):
    """The involution layer: its kernels are computed from the image by a bottleneck of two 1x1 convolutions.

    `[B, channels, H, W] -> [B, channels, ceil(H / stride), ceil(W / stride)]`

    Args:
        channels: the number of channels of input and output.
        kernel_size: an odd number.
        stride: if above 1, the kernels are computed from the means of stride x stride places.
        group_channels: the number of channels that share a kernel.
        reduction: how many times fewer channels the bottleneck has.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 7,
        stride: int = 1,
        *,
        group_channels: int = 16,
        reduction: int = 4,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0 or channels % group_channels:
            raise ValueError(
                f"kernel_size {kernel_size} must be odd, channels {channels} a multiple of {group_channels}"
            )
        self.groups = channels // group_channels
        self.stride = stride
        # No padding exists that could be counted. But with count_include_pad, the gradient from Inductor divides by too
        # much in windows that cross the edge (pytorch#198119).
        pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
        self.pool = pool if stride > 1 else nn.Identity()
        self.reduce = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels // reduction)
        self.act = nn.ReLU(inplace=True)
        self.span = nn.Conv2d(channels // reduction, kernel_size**2 * self.groups, 1)

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.span(self.act(self.norm(self.reduce(self.pool(x)))))
        if not _fused(x) and not torch.compiler.is_exporting():
            # In float32, also under autocast: K*K products are summed one by one, too many for the 8 bits of bf16.
            x, kernels = x.float(), kernels.float()
        return involution(x, kernels.unflatten(1, (self.groups, -1)), self.stride)

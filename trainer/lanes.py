"""The lanes of a batch: the equal slices that the processes of a run take in turn, and nets that compute with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import DropPath, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .errors import RecipeError
from .parallel import rank, world_size


@dataclass(frozen=True)
class Lanes:
    """The equal slices of a batch, which the processes take in turn.

    So what a batch contains does not depend on how many processes there are.
    """

    count: int

    def check(self, batch: int, images: int, *, is_streamed: bool = False) -> None:
        """Refuse batches that the processes can't share evenly, or that shards can't be streamed in.

        Raises:
            RecipeError: the message says what would fit.
        """
        if reason := self.refusal(world_size(), batch, images, is_streamed=is_streamed):
            raise RecipeError(reason)

    def refusal(self, processes: int, batch: int, images: int, *, is_streamed: bool = False) -> str:
        """Return why that many processes can't share batches evenly, and what would fit; "" if they can."""
        if processes == 1 and not is_streamed:
            return ""
        if self.count % processes:
            return (
                f"{processes} processes do not divide data.lanes = {self.count}; "
                "start another number of processes, or set data.lanes to a multiple of it"
            )
        if batch % (2 * self.count):
            nearest = max(1, round(batch / (2 * self.count))) * 2 * self.count
            return (
                f"batch = {batch} has no {self.count} equal lanes of pairs; "
                f"set training.batch = {nearest}, or other data.lanes"
            )
        if images < batch and not is_streamed:
            return f"{images} images do not fill a batch of {batch}; train with one process"
        return ""

    def own_numbers(self) -> range:
        """Return the numbers of the lanes of this process."""
        return range(rank(), self.count, world_size())

    def own(self, batch: Tensor) -> Tensor:
        """Return the samples of this process, [B / processes, ...]."""
        if world_size() == 1:
            return batch
        lanes: Tensor = batch.unflatten(0, (self.count, -1))
        return lanes[rank() :: world_size()].flatten(0, 1)

    def whole(self, own: Tensor) -> Tensor:
        """Return the samples of all processes in the order of the batch, [B, ...].

        Each process computes the same loss of the whole batch, and its gradient flows back to its own samples.
        """
        if world_size() == 1:
            return own
        parts: Tensor = _Gathered.apply(own.contiguous())
        lanes: Tensor = parts.unflatten(1, (self.count // world_size(), -1))
        return lanes.transpose(0, 1).flatten(0, 2)


ONE_LANE = Lanes(1)


class _Gathered(torch.autograd.Function):
    """Gather a tensor from all processes, [processes, ...].

    The average that DDP takes of all gradients divides by their number, which the backward pass undoes.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(world_size())]
        dist.all_gather(parts, own)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient[rank()] * world_size()


def prepared(model: nn.Module, device: torch.device, lanes: Lanes) -> nn.Module:
    """Return a net whose parts that look at a whole batch are ready for a batch that is shared.

    On GPUs, the statistics of batch norms are those of all processes; on a CPU, torch has no such norm, and they are
    those of the process's own lanes. Stochastic depth drops the same images for any number of processes.
    """
    if world_size() == 1:
        return model
    if device.type == "cuda":
        model = convert_sync_batchnorm(model)  # torch's own loses the activations of timm's norms
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, DropPath):
                setattr(module, name, _SharedDropPath(child, lanes))
    return model


def wrapped(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a module that computes as `model` does, and whose gradients are averaged over the processes."""
    if world_size() == 1:
        return model
    return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def same_everywhere(net: nn.Module) -> None:
    """Give every process the buffers that a net has in the first one. On a CPU, each has its own norms' statistics."""
    if world_size() > 1:
        for buffer in net.buffers():
            dist.broadcast(buffer, src=0)


class _SharedDropPath(DropPath):
    """Stochastic depth that draws for the whole batch, and drops its own samples."""

    def __init__(self, like: DropPath, lanes: Lanes) -> None:
        super().__init__(like.drop_prob, like.scale_by_keep)
        self.lanes = lanes

    def forward(self, x: Tensor) -> Tensor:
        keep = 1 - self.drop_prob
        if not self.training or keep == 1:
            return x
        drawn = x.new_empty(len(x) * world_size(), *[1] * (x.ndim - 1)).bernoulli_(keep)
        mask = self.lanes.own(drawn)
        return x * (mask.div_(keep) if keep > 0 and self.scale_by_keep else mask)

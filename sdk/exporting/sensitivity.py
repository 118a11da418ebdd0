"""Which layers suffer most from 8 bits: found in PyTorch, one layer at a time, whatever engine is to run them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from ..images import Pixels
from .deployed import Deployed

PICTURES = 16


@torch.inference_mode()
def most_sensitive_first(
    module: Deployed, pictures: Pixels, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[str]:
    """The names of all layers that can be quantised, by how far the answers move if that layer alone is in 8 bits.

    `pictures` is uint8 [n, height, width, 3], of which the first 16 are taken. The distance is the mean
    Kullback-Leibler divergence of the probabilities.
    """
    batch = torch.from_numpy(pictures[:PICTURES])
    expected = module.logits(batch).log_softmax(-1)
    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    moved = {}
    for done, (name, layer) in enumerate(layers, 1):
        with _in_8_bits(layer):
            found = module.logits(batch).log_softmax(-1)
        moved[name] = float(kl_div(found, expected, reduction="batchmean", log_target=True).nan_to_num(torch.inf))
        progress(done, len(layers))
    return sorted(moved, key=lambda name: moved[name], reverse=True)


@contextmanager
def _in_8_bits(layer: nn.Linear | nn.Conv2d) -> Iterator[None]:
    """Weights symmetric for each output channel, the input with one scale and offset for the whole tensor."""
    weight = layer.weight.data

    def round_input(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_asymmetric(inputs[0]), *inputs[1:])

    handle = layer.register_forward_pre_hook(round_input)
    layer.weight.data = _symmetric(weight)
    try:
        yield
    finally:
        layer.weight.data = weight
        handle.remove()


def _symmetric(weight: Tensor) -> Tensor:
    scale = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True).clamp(min=1e-12) / 127
    return (weight / scale).round() * scale


def _asymmetric(values: Tensor) -> Tensor:
    low, high = values.amin().clamp(max=0), values.amax().clamp(min=0)
    scale = (high - low).clamp(min=1e-12) / 255
    return ((values - low) / scale).round() * scale + low

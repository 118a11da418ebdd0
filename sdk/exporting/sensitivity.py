"""The sensitivity of layers to 8 bits, measured in PyTorch one layer at a time, for any engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from ..images import Pixels
from .deployed import Deployed

IMAGES = 16


@torch.inference_mode()
def most_sensitive_first(
    module: Deployed, images: Pixels, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[str]:
    """Return the names of all layers that can be quantised, the most sensitive first.

    The sensitivity of a layer is the mean Kullback-Leibler divergence between the probabilities before and after that
    layer alone is put into 8 bits. `images` is uint8 [n, height, width, 3]; the first 16 are used.
    """
    batch = torch.from_numpy(images[:IMAGES])
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
    """Round the weights symmetrically for each output channel, and the input with one scale and offset."""
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

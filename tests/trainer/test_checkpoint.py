"""A training that continues from its checkpoint takes the steps that it would have taken."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from trainer.checkpoint import Position, load_progress, save_progress
from trainer.tensors import TensorFile


class Taught:
    """A net of convolutions, laid out as in a training, and its optimiser."""

    def __init__(self, net: nn.Module, *, fused: bool) -> None:
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = AdamW(
            [{"params": [value]} for value in self.net.parameters()], lr=1e-2, fused=fused, foreach=False
        )

    def learn(self, images: Tensor) -> None:
        for image in images:
            self.optimizer.zero_grad()
            self.net(image[None].contiguous(memory_format=torch.channels_last)).square().sum().backward()
            self.optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
def test_an_optimiser_goes_on_with_its_own_numbers(fused, tmp_path: Path):
    """Its state has the layout of the weights: on a GPU, the fused optimiser takes no other."""
    torch.manual_seed(0)
    images = torch.randn(6, 8, 9, 9)
    net = nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 3, groups=4))
    whole = Taught(deepcopy(net), fused=fused)
    whole.learn(images[:3])
    file = TensorFile(tmp_path / "checkpoint.safetensors", "a training", "")
    save_progress(file, Position(1, 2, 0.5, 3.0), {"net": whole.net}, whole.optimizer)
    again = Taught(deepcopy(net), fused=fused)
    assert load_progress(file, {"net": again.net}, again.optimizer) == Position(1, 2, 0.5, 3.0)
    for parameter, slots in again.optimizer.state.items():
        assert slots["exp_avg"].stride() == slots["exp_avg_sq"].stride() == parameter.stride()
    for taught in (whole, again):
        taught.learn(images[3:])
    for name, value in whole.net.state_dict().items():
        assert again.net.state_dict()[name].equal(value), name

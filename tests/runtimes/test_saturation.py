"""Sums of products of 8 bits are exact at int8, also on CPUs that have AVX2 or AVX-512 but no VNNI.

Such CPUs add two products of an unsigned and a signed number in 16 bits, and cut the sum off at 32767. The nets here
have the largest weights and inputs that there are, so that every such sum would be cut off. A CPU with VNNI can't fail.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import sdk

SIZE = 16
PREPROCESSING = sdk.Preprocessing.square(SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class Means(nn.Module):
    """A net whose layers compute means, so that its answer only depends on how bright an image is."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers, self.head = layers, nn.Linear(16, 2)
        with torch.no_grad():
            for layer in layers:
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    layer.weight.fill_(1 / layer.weight[0].numel())
            self.head.weight.copy_(torch.tensor([[10 / 16], [0.0]]))
            self.head.bias.copy_(torch.tensor([0.0, 7.5]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.layers(images)
        return self.head(features.flatten(2).mean(2) if features.ndim > 2 else features)


def linear_layers() -> nn.Module:
    return Means(nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(12, 16, bias=False)))


def convolutions() -> nn.Module:
    first, second = nn.Conv2d(3, 16, 3, bias=False), nn.Conv2d(16, 16, 1, bias=False)
    return Means(nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16, bias=False)))


class Attention(nn.Module):
    """A head on the answer of attention whose values, like its weights, are all as large as they can be."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(48, 16, bias=False), nn.Linear(16, 2)
        with torch.no_grad():
            self.embed.weight.fill_(1 / 48)
            self.head.weight.copy_(torch.tensor([[10 / 16], [0.0]]))
            self.head.bias.copy_(torch.tensor([0.0, 7.5]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(nn.functional.unfold(images, 4, stride=4).transpose(1, 2))[:, None]
        return self.head(nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).mean((1, 2)))


def bright(count: int) -> np.ndarray:
    """Return uint8 [count, SIZE, SIZE, 3]: white, and nearly white."""
    images = np.random.default_rng(0).integers(225, 256, (count, SIZE, SIZE, 3), np.uint8)
    images[::2] = 255
    return images


NETS = (linear_layers, convolutions, Attention)
CASES = [
    *((target, net) for target in ("onnx", "openvino") for net in NETS),
    ("executorch", linear_layers),  # it never adds in 16 bits, and takes longest to lower for
]


@pytest.mark.slow
@pytest.mark.parametrize(("target", "net"), CASES)
def test_no_sum_is_cut_off_at_16_bits(target, net, tmp_path):
    module, images = net().eval(), bright(8)
    bundle = sdk.export(
        module,
        target=target,
        precision="int8",
        out=tmp_path / "bundle",
        labels=("bright", "dark"),
        preprocessing=PREPROCESSING,
        calibration=images,
    )
    with torch.inference_mode():
        expected = module(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).softmax(1).numpy()
    session = bundle.session(1)
    found = np.concatenate([session.run(image[None]) for image in images])
    session.close()
    assert np.abs(found - expected).max() < 0.05

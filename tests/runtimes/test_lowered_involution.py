"""Involution answers like PyTorch on every engine, whatever its kernel and stride."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from runtimes.base import ModelFiles, Quantization, Signature
from runtimes.engines import RUNNABLE, load_lowering, open_session
from sdk.exporting.deployed import Deployed
from sdk.images import Input, Preprocessing, Resize
from trainer.models import Involution

pytestmark = pytest.mark.slow

HEIGHT, WIDTH, CLASSES = 11, 8, 5
MANIFEST = json.dumps({"labels": list("abcde"), "input": {"resize": {"mode": "cover"}}})


class Involutions(nn.Module):
    """Classifies by every output of involutions with the kernels 3, 5 and 7 and the strides 1 and 2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.layers = nn.ModuleList(Involution(32, kernel, stride) for kernel, stride in product((3, 5, 7), (1, 2)))
        self.heads = nn.ModuleList(nn.LazyLinear(CLASSES) for _ in self.layers)

    def forward(self, x):
        x = self.stem(x)
        logits = [head(layer(x).flatten(1)) for layer, head in zip(self.layers, self.heads, strict=True)]
        return torch.stack(logits, -1).sum(-1)


@pytest.fixture(scope="module")
def involutions():
    torch.manual_seed(0)
    module = Involutions().eval()
    with torch.no_grad():
        module(torch.randn(1, 3, HEIGHT, WIDTH))
    size = (HEIGHT, WIDTH)
    how = Input(height=HEIGHT, width=WIDTH, resize=Resize(mode="cover", size=size))
    return Deployed(module, Preprocessing(input=how, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)))


SIGNATURE = Signature(HEIGHT, WIDTH, CLASSES)
IMAGES = np.random.default_rng(0).integers(0, 256, (16, HEIGHT, WIDTH, 3), np.uint8)


def answers(module, target, precision, folder):
    """Return what an engine answers for the images and what PyTorch answers, and how much was delegated."""
    quantization = Quantization(IMAGES) if precision == "int8" else None
    outcome = load_lowering(target).lower(
        module,
        signature=SIGNATURE,
        precision=precision,
        backend=next(iter(RUNNABLE[target].backends), None),
        quantization=quantization,
        manifest=MANIFEST,
        folder=folder,
    )
    files = ModelFiles.in_folder(folder, RUNNABLE[target].files)
    session, _ = open_session(target, files, SIGNATURE, precision=precision)
    found = session.run(IMAGES)
    session.close()
    with torch.no_grad():
        expected = module(torch.from_numpy(IMAGES)).numpy()
    assert np.ptp(expected) > 0.2
    return found, expected, outcome and outcome.delegation


@pytest.mark.parametrize(
    "target", [pytest.param(target, marks=pytest.mark.long if target == "executorch" else ()) for target in RUNNABLE]
)
def test_involution_answers_like_pytorch(involutions, target, tmp_path):
    found, expected, delegation = answers(involutions, target, "fp32", tmp_path)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    if delegation is not None:
        # Outside are the conversion of the pixels, and of strided involutions the slices and means over cut windows.
        known = {"slice_copy_tensor", "avg_pool2d", "dim_order_ops__to_dim_order_copy"}
        assert delegation.outside.keys() <= known


@pytest.mark.long
@pytest.mark.parametrize(
    ("target", "precision"),
    [
        (target, precision)
        for target, engine in RUNNABLE.items()
        for precision in engine.precisions
        if precision != "fp32"
    ],
)
def test_involution_answers_almost_the_same_in_fewer_bits(involutions, target, precision, tmp_path):
    found, expected, _ = answers(involutions, target, precision, tmp_path)
    assert np.abs(found - expected).max() < (0.02 if precision == "fp16" else 0.1)

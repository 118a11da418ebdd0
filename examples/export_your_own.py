"""Export your own torch module as a bundle for a device, and predict with it.

    python examples/export_your_own.py onnx my-bundle

The module here learns in a moment which third of an image is the brightest. Any module that maps float32
[batch, 3, height, width] to logits [batch, classes] works in the same way.
"""

import sys

import numpy as np
import torch
from torch import nn

import sdk

SIZE = 24
LABELS = ["left", "middle", "right"]
PREPROCESSING = sdk.Preprocessing.square(SIZE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def images_and_labels(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 [count, SIZE, SIZE, 3], and the number of the brightest third of each image."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, count)
    images = draw.integers(0, 150, (count, SIZE, SIZE, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, label * SIZE // 3 : (label + 1) * SIZE // 3] += np.uint8(80)
    return images, labels


def train() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 3)
    )
    images, labels = images_and_labels(512, seed=0)
    inputs = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    for _ in range(40):
        loss = nn.functional.cross_entropy(module(inputs), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module


def main(target: str, out: str) -> None:
    validation = images_and_labels(128, seed=1)
    bundle = sdk.export(
        train(), target=target, out=out, labels=LABELS, preprocessing=PREPROCESSING, validation=validation
    )
    print(f"{bundle.path}: {bundle.manifest.proof}")
    with sdk.Classifier(bundle.path) as classifier:
        prediction = classifier.predict(validation[0][0])
    print(f"{prediction.label} ({prediction.score:.0%}), and truly {LABELS[validation[1][0]]}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/export_your_own.py onnx|openvino|executorch BUNDLE")
    try:
        main(*sys.argv[1:])
    except sdk.LibkdError as fault:
        sys.exit(f"{fault}")

"""The promise of every bundle, on two hundred real images: what PyTorch answers, every engine answers."""

import zipfile

import numpy as np
import pytest
import torch

import sdk
from sdk.images import pixels
from trainer.data.named import FASHION_MNIST_MINI


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    """Every tenth PNG file of the test images that come along."""
    with zipfile.ZipFile(FASHION_MNIST_MINI) as archive:
        names = [name for name in archive.namelist() if name.startswith("test/")]
        return [archive.read(name) for name in names[::10]]


@pytest.fixture(scope="module")
def expected(images, vit, preprocessing) -> np.ndarray:
    """PyTorch's probabilities, [200, classes], by the plainest way from an image to them."""
    stacked = np.stack([pixels(image, preprocessing.input) for image in images])
    x = torch.from_numpy(stacked).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    with torch.no_grad():
        return vit((x - mean) / std).softmax(-1).numpy()


@pytest.mark.parametrize("target", ["onnx", "openvino", "executorch"])
def test_every_engine_answers_like_pytorch(target, bundles, images, expected):
    assert len(images) == 200
    with sdk.Classifier(bundles[target].path) as classifier:
        answers = np.stack([answer.probabilities for answer in classifier.predict_batch(images)])
    assert np.abs(answers - expected).max() <= 1e-4
    assert (answers.argmax(1) == expected.argmax(1)).all()
    assert len(set(expected.argmax(1))) > 1  # and they are not all the same answer

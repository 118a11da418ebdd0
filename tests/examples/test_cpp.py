"""The reader in C++ gives the pixels and the probabilities that the specification says, and the JSON of Python."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import sdk
from bundle_edits import reseal
from cpp_reader import IMAGES, README, ROOT, VECTORS, build, commands, refusal
from documents import blocks
from sdk.images import pixels

pytestmark = pytest.mark.slow

BUNDLES = sorted((VECTORS / "bundles").iterdir())
INPUTS = json.loads((VECTORS / "vectors.json").read_text(encoding="utf-8"))["inputs"]
ENGINES = {"executorch": "executorch", "openvino": "openvino", "onnx": "openvino"}
"""The Python package that has the engine for a target."""


@pytest.mark.parametrize("name", INPUTS)
def test_the_pixels_are_those_of_the_vectors(sanitized, name):
    done = sanitized("--pixels", json.dumps(INPUTS[name]), *IMAGES)
    assert done.returncode == 0, done.stderr.decode()
    height, width = INPUTS[name]["height"], INPUTS[name]["width"]
    found = np.frombuffer(done.stdout, np.uint8).reshape(len(IMAGES), height, width, 3)
    expected = load_file(VECTORS / "pixels.safetensors")
    for file, image in zip(IMAGES, found, strict=True):
        difference = np.abs(image.astype(int) - expected[f"{name}/{file.name}"])
        if file.suffix == ".png":
            assert difference.max() == 0, file.name
        else:
            assert difference.mean() <= 1, file.name


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (700, 500), (333, 1000)], ids=str)
def test_the_pixels_of_other_images_are_those_of_python(sanitized, tmp_path, size):
    image = np.random.default_rng(size).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    how = sdk.Preprocessing.square(48, crop_fraction=0.9, filter="lanczos").input
    done = sanitized(
        "--pixels",
        '{"height": 48, "width": 48, "resize": {"mode": "cover", "size": [53, 53], "filter": "lanczos"}}',
        tmp_path / "image.png",
    )
    found = np.frombuffer(done.stdout, np.uint8).reshape(48, 48, 3).astype(int)
    assert np.abs(found - pixels(tmp_path / "image.png", how)).max() <= (1 if max(size) == 20_000 else 0)


def test_the_command_of_the_readme_prints_what_it_shows(libkd, made_once):
    """The fixture `libkd` ran the commands before it."""
    pytest.importorskip("executorch")
    *_, command = commands(made_once("cpp", build))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (shown,) = (block.text.splitlines() for block in blocks(README) if block.language == "text")
    assert done.stderr.rpartition(" ")[0] == shown[0].rpartition(" ")[0]  # the number depends on the processor
    assert done.stdout.partition(' "score"')[0] == shown[1].partition(' "score"')[0]


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_the_probabilities_are_those_of_the_vectors(libkd, bundle):
    target, precision = bundle.name.split("-")
    pytest.importorskip(ENGINES[target])
    done = libkd(bundle, *IMAGES, "--top", 1000, "--threads", 1, "--verify")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.startswith(b"golden images: the largest difference is ")
    labels = sdk.Bundle.open(bundle).labels
    expected = load_file(VECTORS / "probabilities.safetensors")
    tolerance = 1e-3 if precision == "fp32" else 0.1
    for file, line in zip(IMAGES, done.stdout.splitlines(), strict=True):
        row, wanted = json.loads(line), expected[f"{bundle.name}/{file.name}"]
        assert row["source"] == str(file)
        assert {row["label"]: row["score"]}.items() <= {each["label"]: each["score"] for each in row["top"][:1]}.items()
        found = {each["label"]: each["score"] for each in row["top"]}
        answer = np.array([found[label] for label in labels])
        if file.suffix == ".png":
            assert np.abs(answer - wanted).max() <= tolerance, file.name
        second, first = np.sort(wanted)[-2:]
        if first - second > tolerance:
            assert row["label"] == labels[wanted.argmax()], file.name


def test_a_line_is_what_python_prints(libkd, own_copy, tmp_path):
    """The labels and the name hold what has to be escaped, and what need not be."""
    pytest.importorskip("openvino")
    folder = own_copy("onnx")
    image = tmp_path / 'gr\u00fc\u00df "\\\t\u2028\U0001f600.png'
    shutil.copy(VECTORS / "images" / "rgb-37x53.png", image)
    done = libkd(folder, image, tmp_path / "none.png", "--top", 2)
    assert done.returncode == 2
    first, second = done.stdout.decode().split("\n")[:-1]
    with sdk.Classifier(folder, top_k=2) as classifier:
        wanted = classifier.predict(image).to_dict()
    row = json.loads(first)
    assert list(row) == list(wanted)
    assert row["source"] == wanted["source"]
    assert [list(each) for each in row["top"]] == [["label", "score"]] * 2
    assert [each["label"] for each in row["top"]] == [each["label"] for each in wanted["top"]]
    assert json.dumps(row, ensure_ascii=False).replace("\u2028", "\\u2028") == first
    assert all(float(np.float32(each["score"])) == each["score"] for each in row["top"])
    message = f"{tmp_path / 'none.png'}: no such file; check the path"
    assert json.loads(second) == {"source": str(tmp_path / "none.png"), "error": message, "code": "image-unreadable"}


def test_an_engine_that_was_left_out_is_named(sanitized):
    message, code = refusal(sanitized(VECTORS / "bundles" / "onnx-fp32", IMAGES[0]))
    assert code == "engine-missing"
    assert message.endswith("pip install openvino, and build it again")


def test_weights_in_another_file_are_not_looked_for(libkd, tmp_path):
    onnx = pytest.importorskip("onnx")
    folder = Path(shutil.copytree(VECTORS / "bundles" / "onnx-fp32", tmp_path / "bundle"))
    model = onnx.load(folder / "model.onnx")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    (folder / "weights").unlink()
    reseal(folder)
    message, code = refusal(libkd(folder, IMAGES[0]))
    assert code == "bundle-invalid"
    assert "model.onnx names another file" in message


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["bundle"],
        ["bundle", "image", "--top"],
        ["bundle", "image", "--top", "0"],
        ["bundle", "image", "--fast"],
        ["--pixels", "{}", "image"],
        ["--pixels"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_explained(sanitized, arguments):
    assert refusal(sanitized(*arguments))[1] == "usage"

"""The vectors of the specification are the pixels of `sdk.images`, and the rule in words gives them as well."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from safetensors.numpy import load_file

import reference_pixels
from runtimes.engines import RUNNABLE
from sdk import Bundle, Classifier, images
from sdk.images import Input, Resize, pixels

VECTORS = Path(__file__).parents[2] / "spec" / "vectors"
IMAGES = sorted((VECTORS / "images").iterdir())
EXPECTED = load_file(VECTORS / "pixels.safetensors")
BUNDLES = sorted((VECTORS / "bundles").iterdir())
ANSWERS = load_file(VECTORS / "probabilities.safetensors")
INPUTS = json.loads((VECTORS / "vectors.json").read_text(encoding="utf-8"))["inputs"]
FILTERS = ["nearest", "box", "bilinear", "bicubic", "lanczos"]


def eight_bits(image: Image.Image) -> np.ndarray:
    """Return what a decoder of another language gives: uint8 [height, width, 3 or 4]."""
    if image.mode == "I;16":
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, 2)
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def orientation(image: Image.Image) -> int:
    return image.getexif().get(ExifTags.Base.Orientation, 1)


@pytest.mark.parametrize("file", IMAGES, ids=lambda file: file.name)
@pytest.mark.parametrize("name", INPUTS)
def test_the_vectors_are_the_pixels_of_the_sdk(file, name):
    found = pixels(file, msgspec.convert(INPUTS[name], Input))
    assert np.array_equal(found, EXPECTED[f"{name}/{file.name}"])


@pytest.mark.parametrize("file", IMAGES, ids=lambda file: file.name)
@pytest.mark.parametrize("name", INPUTS)
def test_the_rule_in_words_gives_the_vectors(file, name):
    with Image.open(file) as image:
        turn, extent, how = orientation(image), None, INPUTS[name]["resize"]
        if how["filter"] != "nearest":
            least = 2 * max(how["size"])
            drafted = image.draft(None, (least, least))  # does nothing to a PNG
            extent = drafted and drafted[1][2:]
        found = reference_pixels.pixels(eight_bits(image), INPUTS[name], turn, extent)
    assert np.array_equal(found, EXPECTED[f"{name}/{file.name}"])


@pytest.mark.slow
@pytest.mark.parametrize("file", [file for file in IMAGES if file.name.startswith("large")], ids=lambda file: file.name)
@pytest.mark.parametrize("name", INPUTS)
def test_a_large_jpeg_that_is_decoded_as_a_whole_is_almost_the_same(file, name):
    with Image.open(file) as image:
        found = reference_pixels.pixels(eight_bits(image), INPUTS[name], orientation(image))
    assert np.abs(found.astype(int) - EXPECTED[f"{name}/{file.name}"]).mean() < 1


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_the_bundles_answer_as_they_did_where_they_were_made(bundle):
    pytest.importorskip({"onnx": "onnxruntime"}.get(engine := bundle.name.split("-")[0], engine))
    within = 0.1 if bundle.name.endswith("int8") else 1e-3
    with Classifier(bundle) as classifier:
        for file in IMAGES:
            expected = ANSWERS[f"{bundle.name}/{file.name}"]
            found = classifier.predict(file).probabilities
            assert np.abs(found - expected).max() <= within, file.name
            first, second = np.sort(expected)[::-1][:2]
            assert found.argmax() == expected.argmax() or first - second <= 2 * within


def test_there_is_a_bundle_of_each_engine_and_precision_with_an_answer_to_each_image():
    assert [bundle.name for bundle in BUNDLES] == [
        f"{engine}-{precision}" for engine in sorted(RUNNABLE) for precision in ("fp32", "int8")
    ]
    assert ANSWERS.keys() == {f"{bundle.name}/{file.name}" for bundle in BUNDLES for file in IMAGES}
    for bundle in BUNDLES:
        assert Bundle.open(bundle).input == msgspec.convert(INPUTS["cover"], Input)


def test_there_are_forty_images_of_every_kind_and_no_other_pixels():
    assert len(IMAGES) == 40
    assert EXPECTED.keys() == {f"{name}/{file.name}" for name in INPUTS for file in IMAGES}
    turned = set()
    for file in IMAGES:
        with Image.open(file) as image:
            turned.add(orientation(image))
    assert turned == set(range(1, 9))


LENGTHS = st.integers(1, 60) | st.integers(1, 300)


@given(
    size=st.tuples(LENGTHS, LENGTHS),
    model=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    more=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    mode=st.sampled_from(["cover", "squash"]),
    filter=st.sampled_from(FILTERS),
    channels=st.sampled_from([3, 4]),
)
@settings(max_examples=150, deadline=None)
def test_any_image_becomes_what_the_rule_in_words_says(size, model, more, mode, filter, channels):
    how = Resize(mode=mode, size=(model[0] + more[0], model[1] + more[1]), filter=filter)
    input = Input(height=model[0], width=model[1], resize=how)
    image = np.random.default_rng(size).integers(0, 256, (*size, channels), np.uint8)
    if images.is_ready(image, input):
        return
    found = pixels(image, input).astype(int)
    expected = reference_pixels.pixels(image, msgspec.to_builtins(input))
    width, height = images._scaled(size[::-1], how)
    if width * height <= images.LONG * how.size[0] * how.size[1]:
        assert np.array_equal(found, expected)
    elif filter not in ("nearest", "box"):
        assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("size", [(60, 200), (200, 60), (90, 100)])
@pytest.mark.parametrize("filter", FILTERS)
def test_a_huge_image_is_scaled_in_parts_as_if_at_once(size, filter, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (*size, 4), np.uint8)
    input = Input(height=20, width=30, resize=Resize(mode="squash", size=(20, 30), filter=filter), crop="none")
    at_once = pixels(image, input)
    monkeypatch.setattr(images, "LARGE", 100)
    monkeypatch.setattr("sdk.decoding.colours._BAND", 1000)
    assert np.array_equal(pixels(image, input), at_once)

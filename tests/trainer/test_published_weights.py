"""Published weights see the pixels that timm shows them, or they are refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import timm.data
from PIL import Image

from patterns import patterns
from sdk.images import pixels
from trainer.errors import RecipeError
from trainer.models.published import preprocessing_of

ASPECTS = ((97, 61), (60, 131), (333, 500))


def seen_by(name: str) -> dict[str, Any]:
    """Return how timm prepares images for some weights."""
    known = timm.get_pretrained_cfg(name)
    assert known is not None
    return timm.data.resolve_data_config(pretrained_cfg=known.to_dict())


def configurations() -> dict[str, dict[str, Any]]:
    """Return one name for each kind of preprocessing among all weights that timm knows, with that preprocessing."""
    found: dict[tuple[object, ...], tuple[str, dict[str, Any]]] = {}
    for name in timm.list_models(pretrained=True):
        seen = seen_by(name)
        found.setdefault((seen["input_size"], seen["interpolation"], seen["crop_pct"], seen["crop_mode"]), (name, seen))
    return dict(found.values())


CONFIGURATIONS = configurations()
REFUSED = {name for name, seen in CONFIGURATIONS.items() if seen["crop_mode"] == "border" or seen["crop_pct"] > 1}


def test_timm_has_every_kind_that_these_tests_are_for():
    kinds = {(seen["crop_mode"], seen["crop_pct"] < 1) for seen in CONFIGURATIONS.values()}
    assert kinds >= {("center", True), ("center", False), ("squash", True), ("squash", False), ("border", False)}
    assert len(CONFIGURATIONS) > 100
    assert REFUSED


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if name not in REFUSED])
def test_pixels_are_those_of_timm(name):
    seen = CONFIGURATIONS[name]
    ours = preprocessing_of(name, seen)
    theirs = timm.data.create_transform(**{**seen, "mean": None, "std": None}, normalize=False)
    assert (ours.mean, ours.std) == (seen["mean"], seen["std"])
    for size in ASPECTS:
        image = Image.fromarray(patterns(1, seed=sum(size))[0]).resize(size, Image.Resampling.BICUBIC)
        expected = theirs(image).numpy().transpose(1, 2, 0)
        np.testing.assert_array_equal(pixels(image, ours.input), expected)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_borders_are_refused_by_name(name):
    with pytest.raises(RecipeError, match=rf"^{name}: timm adds borders to images .*choose other weights"):
        preprocessing_of(name, CONFIGURATIONS[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interpolation": "hamming"}, "scales images with hamming"),
        ({"interpolation": "random"}, "scales images with random"),
        ({"input_size": (1, 224, 224)}, "takes images of 1 channels"),
        ({"input_size": (3, 224, 160)}, "crops 160x224 pixels"),
    ],
)
def test_what_no_bundle_can_describe_is_refused(change, message):
    usual = seen_by("resnet18")
    assert preprocessing_of("resnet18", usual).input.height == 224
    with pytest.raises(RecipeError, match=f"net: timm {message}"):
        preprocessing_of("net", {**usual, **change})

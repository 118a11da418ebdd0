"""The operations of RandAugment and TrivialAugment, compared with torchvision."""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from torchvision.transforms.v2 import InterpolationMode, RandAugment, TrivialAugmentWide

from trainer.views import Keys, ViewSpec, render
from trainer.views.operations import Kind, Operation, draw


def _moved(image, angle=0.0, translate=(0.0, 0.0), shear=(0.0, 0.0), **center):
    shear = [math.degrees(math.atan(slope)) for slope in shear]
    return F.affine(image, angle, list(translate), 1.0, shear, interpolation=InterpolationMode.BILINEAR, **center)


# The name and the function of each kind in torchvision; kinds that move take float images, the others uint8.
REFERENCES = {
    Kind.IDENTITY: ("Identity", lambda image, _: image),
    Kind.SHEAR_X: ("ShearX", lambda image, level: _moved(image, shear=(level, 0), center=[0, 0])),
    Kind.SHEAR_Y: ("ShearY", lambda image, level: _moved(image, shear=(0, level), center=[0, 0])),
    Kind.TRANSLATE_X: ("TranslateX", lambda image, level: _moved(image, translate=(level, 0))),
    Kind.TRANSLATE_Y: ("TranslateY", lambda image, level: _moved(image, translate=(0, level))),
    Kind.ROTATE: ("Rotate", lambda image, level: F.rotate(image, level, InterpolationMode.BILINEAR)),
    Kind.BRIGHTNESS: ("Brightness", lambda image, level: F.adjust_brightness(image, 1 + level)),
    Kind.SATURATION: ("Color", lambda image, level: F.adjust_saturation(image, 1 + level)),
    Kind.CONTRAST: ("Contrast", lambda image, level: F.adjust_contrast(image, 1 + level)),
    Kind.SHARPNESS: ("Sharpness", lambda image, level: F.adjust_sharpness(image, 1 + level)),
    Kind.POSTERIZE: ("Posterize", lambda image, level: F.posterize(image, round(level))),
    Kind.SOLARIZE: ("Solarize", lambda image, level: F.solarize(image, 255 * level)),
    Kind.AUTOCONTRAST: ("AutoContrast", lambda image, _: F.autocontrast(image)),
    Kind.EQUALIZE: ("Equalize", lambda image, _: F.equalize(image)),
}
MOVING = range(Kind.SHEAR_X, Kind.BRIGHTNESS)
BLENDS = range(Kind.BRIGHTNESS, Kind.POSTERIZE)


def _reference(image, operation, row, space):
    """Apply the operation of a row to an image [3, H, W] with torchvision, whose `space` gives the ranges."""
    name, function = REFERENCES[Kind(operation.kind[row].item())]
    magnitudes, signed = space[name]
    ends = magnitudes(2, *image.shape[1:])  # the smallest and the largest
    if ends is None:
        return function(image, 0)
    level = torch.lerp(*ends.double(), operation.strength[row].double()).item()
    return function(image, level * (operation.sign[row].item() if signed else 1))


def _many_colours():
    """Return uint8 [4, 20, 30, 3]: noise, a gradient in each channel, a narrow range of values, one flat colour."""
    y, x = np.mgrid[:20, :30]
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3))
    gradient = np.stack([x * 8, y * 12, 250 - x * 4 - y * 4], -1)
    return torch.from_numpy(np.stack([noise, gradient, 90 + noise // 4, noise * 0 + (200, 100, 30)]).astype(np.uint8))


@pytest.mark.parametrize("magnitude", [4.0, 10.0, "uniform"])
@pytest.mark.parametrize("kind", Kind, ids=[kind.name.lower() for kind in Kind])
def test_an_operation_is_that_of_torchvision(tiny_data, kind, magnitude):
    """Operations with a table agree exactly; blends agree within two steps of 255, because torchvision rounds."""
    space = (TrivialAugmentWide if magnitude == "uniform" else RandAugment)._AUGMENTATION_SPACE
    spec, ids = ViewSpec(operations=1, magnitude=magnitude), torch.arange(400)
    [operation] = draw(Keys(0, ids, 0), spec)
    rows = (operation.kind == kind).nonzero().flatten()
    operation = Operation(*(values[rows] for values in operation))
    tolerance = {Kind.POSTERIZE: 1e-6, Kind.SOLARIZE: 1e-6, Kind.EQUALIZE: 1e-6}.get(kind, 2.01 / 255)
    for source in (tiny_data.train.pixels()[:8], _many_colours()):
        images = source[rows % len(source)]
        rendered = render(images, ids[rows], seed=0, view=0, spec=spec).pixels
        for row, image in enumerate(images.permute(0, 3, 1, 2)):
            image = image / 255 if kind in MOVING else image
            expected = _reference(image, operation, row, space)
            expected = expected if kind in MOVING else expected / 255
            torch.testing.assert_close(rendered[row], expected, rtol=0, atol=1e-4 if kind in MOVING else tolerance)


def test_operations_that_move_compose_to_one_resampling():
    """In an image whose values are linear in x and y, repeated resampling loses only what has left the image."""
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    plane = torch.stack(
        [x * 3, y * 5, torch.full_like(x, 255)]
    )  # the last channel tells what is still inside the image
    ids, spec = torch.arange(300), ViewSpec(operations=2, magnitude=6.0, flip=1.0)
    drawn = draw(Keys(0, ids, 0), spec)
    rows = torch.stack([(op.kind >= MOVING.start) & (op.kind < MOVING.stop) for op in drawn]).all(0).nonzero().flatten()
    assert len({(drawn[0].kind[row].item(), drawn[1].kind[row].item()) for row in rows}) > 15
    images = plane.to(torch.uint8).permute(1, 2, 0).expand(300, -1, -1, -1)
    rendered = render(images, ids, seed=0, view=0, spec=spec).pixels
    for row in rows:
        expected = F.horizontal_flip(plane / 255)
        for operation in drawn:
            expected = _reference(expected, operation, row, RandAugment._AUGMENTATION_SPACE)
        inside = (expected[2] > 0.9999) & (rendered[row, 2] > 0.9999)
        assert inside.float().mean() > 0.1
        torch.testing.assert_close(rendered[row][:, inside], expected[:, inside], rtol=0, atol=1e-3)


def test_colour_operations_follow_in_the_order_drawn():
    ids, spec = torch.arange(400), ViewSpec(operations=2)
    first, second = drawn = draw(Keys(0, ids, 0), spec)
    rows = ((first.kind >= BLENDS.start) & (second.kind >= BLENDS.start) & (second.kind < BLENDS.stop)).nonzero()
    images = _many_colours().repeat(100, 1, 1, 1)
    rendered = render(images, ids, seed=0, view=0, spec=spec).pixels
    for row in rows.flatten():
        expected = images[row].permute(2, 0, 1)
        for operation in drawn:
            expected = _reference(expected, operation, row, RandAugment._AUGMENTATION_SPACE)
        torch.testing.assert_close(rendered[row], expected / 255, rtol=0, atol=5 / 255)


def test_operations_are_drawn_evenly_with_the_requested_strengths():
    keys = Keys(0, torch.arange(140_000), 0)
    first, second = draw(keys, ViewSpec(operations=2, magnitude=5.0))
    pairs = torch.bincount(first.kind * len(Kind) + second.kind, minlength=len(Kind) ** 2)
    expected = 140_000 / len(Kind) ** 2
    assert ((pairs - expected) ** 2 / expected).sum() < 276  # chi squared, 195 degrees of freedom: p < 0.0001 beyond
    assert first.sign.unique().tolist() == [-1, 1]
    assert first.sign.mean().abs() < 0.01
    assert first.strength.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert first.strength.std().item() == pytest.approx(0.05, abs=1e-3)
    assert torch.corrcoef(torch.stack([*first, *second]).float()).fill_diagonal_(0).abs().max() < 0.02
    [strong] = draw(keys, ViewSpec(operations=1, magnitude=10.0))
    assert strong.strength.max() == 1
    [any_strength] = draw(keys, ViewSpec(operations=1, magnitude="uniform"))
    counts = torch.histc(any_strength.strength, 100, 0, 1)
    assert ((counts - 1400) ** 2 / 1400).sum() < 160

"""Views: the same key gives the same pixels, whatever stands beside it; and each operation does what it says."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.views import Keys, ViewSpec, order, render, seed_of
from trainer.views.view import _beta, _partners

EVERYTHING = ViewSpec(
    shift=0.1,
    scale=(0.4, 1.0),
    ratio=(0.75, 1.3333),
    flip=0.5,
    rotate=15,
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
    erase=0.5,
    mixup=0.8,
    cutmix=1.0,
    mix=0.8,
)


@pytest.fixture(scope="module")
def pictures(tiny_data):
    split = tiny_data.train
    return split.images[:64], split.ids[:64]


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 31), max_size=6), view=st.integers(0, 400))
def test_a_view_does_not_depend_on_the_batch(pictures, cuts, view):
    images, ids = pictures
    whole = render(images, ids, seed=3, view=view, spec=EVERYTHING)
    edges = sorted({0, 64, *(2 * cut for cut in cuts)})
    parts = [render(images[a:b], ids[a:b], seed=3, view=view, spec=EVERYTHING) for a, b in pairwise(edges)]
    assert torch.equal(torch.cat([part.pixels for part in parts]), whole.pixels)
    assert torch.equal(torch.cat([part.own for part in parts]), whole.own)


def test_a_view_does_not_depend_on_the_order_of_pairs_nor_within_them(pictures):
    images, ids = pictures
    whole = render(images, ids, seed=3, view=5, spec=EVERYTHING)
    shuffled = torch.arange(64).view(-1, 2).flip(0).flip(1).flatten()
    again = render(images[shuffled], ids[shuffled], seed=3, view=5, spec=EVERYTHING)
    assert torch.equal(again.pixels, whole.pixels[shuffled])
    assert torch.equal(again.own, whole.own[shuffled])


def test_a_view_does_not_depend_on_the_number_of_threads(pictures):
    images, ids = pictures
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = render(images, ids, seed=3, view=5, spec=EVERYTHING)
        torch.set_num_threads(max(2, threads))
        many = render(images, ids, seed=3, view=5, spec=EVERYTHING)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one.pixels, many.pixels)


def test_another_seed_view_or_sample_gives_other_pixels(pictures):
    images, ids = pictures
    base = render(images, ids, seed=3, view=5, spec=EVERYTHING).pixels
    for other in (
        render(images, ids, seed=4, view=5, spec=EVERYTHING),
        render(images, ids, seed=3, view=6, spec=EVERYTHING),
        render(images, ids + 1, seed=3, view=5, spec=EVERYTHING),
    ):
        assert (other.pixels != base).flatten(1).any(1).float().mean() > 0.9


def test_pixels_of_a_key_are_pinned():
    # Stored logits outlive a version of this package: if this fails on purpose, raise REVISION in views/spec.py.
    ramp = torch.arange(2 * 8 * 8 * 3, dtype=torch.int64).mul(7).remainder(256).to(torch.uint8).view(2, 8, 8, 3)
    view = render(ramp, torch.tensor([11, 12]), seed=1, view=2, spec=EVERYTHING)
    assert view.own.tolist() == pytest.approx(PINNED_OWN, abs=1e-4)
    assert view.pixels[:, 1, 3, ::3].flatten().tolist() == pytest.approx(PINNED_PIXELS, abs=1e-4)
    assert Keys(1, torch.tensor([11, 12]), 2).bits("flip").tolist() == PINNED_BITS


PINNED_OWN = [0.9375, 0.9375]
PINNED_PIXELS = [0.2269, 0.5, 0.5, 0.4217, 0.3305, 0.7277]
PINNED_BITS = [1537867023757310720, -3637986404647443988]


def test_no_augmentation_leaves_the_picture(pictures):
    images, ids = pictures
    view = render(images, ids, seed=0, view=0, spec=ViewSpec())
    assert torch.equal(view.pixels, images.permute(0, 3, 1, 2).float() / 255)
    assert torch.equal(view.own, torch.ones(64))


def test_a_certain_flip_mirrors_the_picture(pictures):
    images, ids = pictures
    mirrored = render(images, ids, seed=0, view=0, spec=ViewSpec(flip=1.0)).pixels
    torch.testing.assert_close(mirrored, (images.permute(0, 3, 1, 2).float() / 255).flip(3), rtol=0, atol=1e-5)


def test_a_crop_is_the_resampled_part_of_the_picture():
    """Of a picture whose red is its x and whose green is its y, a crop shows an affine piece of the plane."""
    y, x = np.mgrid[:32, :32]
    plane = np.stack([x * 8, y * 8, np.zeros_like(x)], -1).astype(np.uint8)[None].repeat(64, 0)
    spec = ViewSpec(scale=(0.25, 0.25))
    red = render(torch.from_numpy(plane), torch.arange(64), seed=0, view=0, spec=spec).pixels[:, 0] * 255 / 8
    inner = red[:, 2:-2, 2:-2]
    steps = inner.diff(dim=2)
    torch.testing.assert_close(
        steps, torch.full_like(steps, 0.5), rtol=0, atol=2e-3
    )  # a quarter of the area: half speed
    starts = red[:, 16, 2]
    assert starts.min() < 4
    assert starts.max() > 12  # everywhere in the picture, from its left edge to its right half


def test_a_rotation_keeps_the_middle_and_turns_the_rest():
    picture = torch.zeros(1, 33, 33, 3, dtype=torch.uint8)
    picture[:, 16, 20:30] = 255  # a hand that points to the right
    turned = render(picture.repeat(256, 1, 1, 1), torch.arange(256), seed=0, view=0, spec=ViewSpec(rotate=90)).pixels[
        :, 0
    ]
    y, x = torch.meshgrid(torch.arange(33.0) - 16, torch.arange(33.0) - 16, indexing="ij")
    mass = turned.sum((1, 2))
    angle = torch.atan2((turned * y).sum((1, 2)) / mass, (turned * x).sum((1, 2)) / mass).rad2deg()
    length = torch.hypot((turned * y).sum((1, 2)) / mass, (turned * x).sum((1, 2)) / mass)
    torch.testing.assert_close(length, torch.full_like(length, 8.5), rtol=0, atol=0.3)
    assert angle.min() < -80
    assert angle.max() > 80


def test_mixup_and_cutmix_say_how_much_of_a_picture_is_its_own(pictures):
    images, ids = pictures
    black_and_white = torch.zeros_like(images)
    black_and_white[1::2] = 255
    for spec in (ViewSpec(mixup=0.8), ViewSpec(cutmix=1.0)):
        view = render(black_and_white, ids, seed=0, view=0, spec=spec)
        white = view.pixels.mean((1, 2, 3))
        torch.testing.assert_close(white[1::2], view.own[1::2], rtol=0, atol=1e-5)
        torch.testing.assert_close(white[0::2], 1 - view.own[0::2], rtol=0, atol=1e-5)
        assert torch.equal(view.own[0::2], view.own[1::2])  # the two of a pair give as much as they take
        assert view.own.std() > 0.1


def test_soft_labels_follow_the_pixels():
    view = render(torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.arange(4), seed=0, view=0, spec=ViewSpec(mixup=1.0))
    targets = view.targets(torch.tensor([0, 1, 2, 2]), classes=3, smoothing=0.1)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    own = view.own * 0.9
    torch.testing.assert_close(targets[0], torch.stack([own[0], 0.9 - own[0], own[0] * 0]) + 0.1 / 3)
    torch.testing.assert_close(targets[2], torch.tensor([0.0, 0.0, 0.9]) + 0.1 / 3)


def test_a_last_picture_without_a_partner_stays_whole(pictures):
    images, ids = pictures
    view = render(images[:5], ids[:5], seed=0, view=0, spec=ViewSpec(mixup=1.0, cutmix=1.0))
    assert view.own[4] == 1
    torch.testing.assert_close(view.pixels[4], images[4].permute(2, 0, 1).float() / 255, rtol=0, atol=1e-6)
    assert torch.equal(_partners(torch.arange(5)), torch.tensor([1, 0, 3, 2, 4]))


def test_the_order_is_that_of_the_ids_not_of_the_rows():
    ids = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    once = ids[order(5, ids, 2)]
    shuffled = ids.flip(0)
    assert torch.equal(shuffled[order(5, shuffled, 2)], once)
    assert not torch.equal(ids[order(5, ids, 3)], once)
    assert torch.equal(once.sort().values, torch.arange(1000))


def test_draws_are_uniform_and_independent():
    keys = Keys(0, torch.arange(200_000), 7)
    draws = torch.stack([keys.uniform("a"), keys.uniform("b"), Keys(0, torch.arange(200_000), 8).uniform("a")])
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = torch.histc(draws[0], 100, 0, 1)
    assert ((counts - 2000) ** 2 / 2000).sum() < 160  # chi squared, 99 degrees of freedom: p < 0.0001 beyond
    assert torch.corrcoef(draws).fill_diagonal_(0).abs().max() < 0.01
    assert torch.corrcoef(torch.stack([draws[0, :-1], draws[0, 1:]]))[0, 1].abs() < 0.01


@pytest.mark.parametrize("alpha", [0.2, 0.8, 2.0])
def test_mixing_shares_follow_the_beta_distribution(alpha):
    shares = _beta((torch.arange(100_000) + 0.5) / 100_000, alpha).double()
    assert shares.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=5e-3)
    torch.manual_seed(0)
    reference = torch.distributions.Beta(alpha, alpha).sample((200_000,)).double()
    for quantile in (0.05, 0.25, 0.75, 0.95):
        assert shares.quantile(quantile).item() == pytest.approx(reference.quantile(quantile).item(), abs=0.01)


def test_every_field_of_the_spec_changes_its_hash():
    hashes = {ViewSpec().hash()}
    for change in (
        {"shift": 0.1},
        {"scale": (0.5, 1.0)},
        {"ratio": (0.5, 2.0)},
        {"flip": 0.5},
        {"rotate": 5.0},
        {"fill": "border"},
        {"brightness": 0.1},
        {"contrast": 0.1},
        {"saturation": 0.1},
        {"erase": 0.1},
        {"mixup": 0.1},
        {"cutmix": 0.1},
        {"mix": 0.5},
    ):
        hashes.add(ViewSpec(**change).hash())
    assert len(hashes) == 1 + len(ViewSpec.__struct_fields__)


def test_parts_of_a_run_have_seeds_of_their_own():
    seeds = {seed_of(0, "teach", name) for name in "abc"} | {seed_of(1, "teach", "a"), seed_of(0, "student")}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)

"""Images of rare classes count more in the loss for the labels where classes are very uneven, and it is said so."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

from jobs import job_of
from trainer.balance import describe_balance, image_weights
from trainer.data import Dataset, Split
from trainer.losses import soft_cross_entropy
from trainer.progress import Silent
from trainer.recipe import DataRecipe
from trainer.run import Source, start_run
from trainer.start import choose
from trainer.train import train_teacher
from trainer.views import View

SOURCE = Source(("clothes",))


def counts(*found: int) -> torch.Tensor:
    return torch.tensor(found)


def test_even_classes_are_left_as_they_are():
    assert image_weights(counts(10, 50, 20), "auto") is None
    assert image_weights(counts(10, 51, 20), "auto") is not None
    assert image_weights(counts(10, 500), "never") is None
    assert image_weights(counts(10, 20), "always") is not None


def test_all_classes_count_the_same_together_and_the_mean_weight_is_1():
    found = counts(4, 60, 16)
    weights = image_weights(found, "auto")
    assert weights is not None
    shares = found.double() * weights
    torch.testing.assert_close(shares, shares.mean().expand(3))
    assert (shares.sum() / found.sum()).item() == pytest.approx(1)


def test_images_without_a_label_are_not_counted(tiny_data: Dataset):
    assert isinstance(tiny_data.train, Split)
    labels = tiny_data.train.labels.clone()
    labels[::2] = -1
    found = dataclasses.replace(tiny_data.train, labels=labels).counts(3)
    assert found.tolist() == [(labels == c).sum() for c in range(3)]


def test_a_class_without_labelled_images_is_no_division_by_zero():
    weights = image_weights(counts(0, 60), "auto")
    assert weights is not None
    assert torch.isfinite(weights).all()


def test_the_weighed_loss_is_that_of_torch():
    torch.manual_seed(0)
    weights, right, logits = torch.tensor([3.0, 0.5, 1.0]), torch.tensor([0, 1, 1, 2]), torch.randn(4, 3)
    view = View(torch.zeros(4, 3, 8, 8), torch.ones(4))
    targets = view.targets(right, 3) * (view.targets(right, 3) @ weights)[:, None]
    expected = torch.nn.functional.cross_entropy(logits, right, weight=weights)
    torch.testing.assert_close(soft_cross_entropy(logits, targets), expected)


def test_it_is_said_with_the_largest_and_the_smallest_class():
    names = ("cat", "dog")
    assert describe_balance(counts(10, 20), names, "auto") == ""
    line = describe_balance(counts(10, 1000), names, "auto")
    assert line.startswith(
        "uneven classes: dog has 1,000 images to train on, cat 10; images of rare classes count more"
    )
    assert "every image counts the same" in describe_balance(counts(10, 1000), names, "never")


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def uneven(tiny_data: Dataset) -> Dataset:
    """The tiny data with 3 images of two classes."""
    assert isinstance(tiny_data.train, Split)
    order = tiny_data.train.labels.argsort(stable=True)
    kept = torch.cat([order[tiny_data.train.labels[order] == c][: (99, 3, 3)[c]] for c in range(3)])
    return dataclasses.replace(tiny_data, train=tiny_data.train.take(kept))


def test_a_run_begins_with_what_is_done_about_it(clothes, tiny_recipe, tmp_path):
    for name in ("Bag", "Sneaker"):
        images = sorted((clothes / "train" / name).iterdir())
        for image in images[: 20 if name == "Bag" else 3]:
            place = tmp_path / name / image.name
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(image.read_bytes())
    told = Told()
    choose(Source((str(tmp_path),)), replace(tiny_recipe, data=DataRecipe()), told)
    assert any(line.startswith("uneven classes: Bag has 16 images to train on, Sneaker 1;") for line in told.lines)


@pytest.mark.slow
def test_weights_differ_only_where_it_acts(uneven, tiny_data, tiny_recipe, tmp_path):
    def weights(data: Dataset, balance: str) -> dict[str, torch.Tensor]:
        recipe = replace(tiny_recipe, data=replace(tiny_recipe.data, balance=balance))
        run = start_run(tmp_path / f"{balance}-{len(data.train)}", recipe, data, SOURCE)
        train_teacher(job_of(run, data), "conv")
        return load_file(run.folder / "teachers" / "conv" / "model.safetensors")

    def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(one[name], other[name]) for name in one)

    assert not same(weights(uneven, "auto"), weights(uneven, "never"))
    assert same(weights(tiny_data, "auto"), weights(tiny_data, "never"))

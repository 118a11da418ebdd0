"""Test images and a sample of training images of a run are those of its data, and are read without the others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from clothes import CLASSES, unpack_clothes
from trainer.data import load, load_test, sample
from trainer.errors import DataError, RunError
from trainer.progress import Silent
from trainer.recipe import DataRecipe
from trainer.run import ABOUT, Source, start_run
from trainer.start import test_images as images_of_the_test  # under its own name, pytest would collect it
from trainer.start import training_sample


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return unpack_clothes(tmp_path / "photos")


def started(photos: Path, recipe, **source) -> tuple[Path, str]:
    """Return the folder of a new run, and the hash of its test images."""
    data = load([photos], recipe.data, skip_bad=source.get("skip_bad", False))
    folder = photos.parent / "run"
    start_run(folder, recipe, data, Source((str(photos),), **source))
    return folder, data.test.hash()


@pytest.mark.parametrize("named", ["test", "val", "both"])
def test_they_are_those_of_the_whole_dataset(photos, named):
    if named == "val":
        (photos / "test").rename(photos / "val")
    elif named == "both":
        shutil.copytree(photos / "train", photos / "val")
    data, how = load([photos]), DataRecipe(size=28)
    assert load_test([photos], how, data.labels).hash() == data.test.hash()


def test_images_to_train_on_may_be_gone(photos, tiny_recipe):
    run, expected = started(photos, tiny_recipe)
    shutil.rmtree(photos / "train")
    assert images_of_the_test(run, Silent()).hash() == expected


@pytest.mark.parametrize("change", ["another image", "one less", "another class"])
def test_others_are_refused(photos, tiny_recipe, change):
    run, _ = started(photos, tiny_recipe)
    folder = photos / "test" / CLASSES[0]
    if change == "another image":
        shutil.copy(folder / "1.png", folder / "0.png")
    elif change == "one less":
        (folder / "0.png").unlink()
    else:
        folder.rename(photos / "test" / "cat")
    with pytest.raises((RunError, DataError), match=r"belongs to other data|class 'cat' has no training images"):
        images_of_the_test(run, Silent())


def test_a_part_of_the_training_images_is_found_again(photos, tiny_recipe):
    shutil.rmtree(photos / "test")
    run, expected = started(photos, tiny_recipe)
    assert load_test([photos], DataRecipe(size=28), CLASSES) is None
    assert images_of_the_test(run, Silent()).hash() == expected


def test_unreadable_ones_are_left_out_again(photos, tiny_recipe):
    for number in range(3):
        (photos / f"test/Bag/{number}.png").write_bytes(b"no image")
    run, expected = started(photos, tiny_recipe, skip_bad=True)
    assert images_of_the_test(run, Silent()).hash() == expected


def test_a_run_of_an_earlier_version_reads_all_images(photos, tiny_recipe):
    run, expected = started(photos, tiny_recipe)
    about = json.loads((run / ABOUT).read_text())
    del about["test_hash"]
    (run / ABOUT).write_text(json.dumps(about))
    assert images_of_the_test(run, Silent()).hash() == expected
    shutil.rmtree(photos / "train")
    with pytest.raises(DataError, match="images for training are missing"):
        images_of_the_test(run, Silent())


@pytest.mark.parametrize("named", ["test", "val", "both", "neither", "few labels"])
def test_a_sample_is_that_of_all_images_to_train_on(photos, tiny_recipe, named):
    if named == "val":
        (photos / "test").rename(photos / "val")
    elif named == "both":
        shutil.copytree(photos / "test", photos / "val")
    elif named == "neither":
        shutil.rmtree(photos / "test")
    how = replace(tiny_recipe.data, labels=0.5) if named == "few labels" else tiny_recipe.data
    run, _ = started(photos, replace(tiny_recipe, data=how))
    expected = sample(load([photos], how).train, 20)
    assert expected.unique(dim=0).shape == (20, 28, 28, 3)
    assert training_sample(run, 20, Silent()).equal(expected)


def test_a_sample_is_read_without_other_images(photos, tiny_recipe):
    run, _ = started(photos, tiny_recipe)
    expected = training_sample(run, 20, Silent())
    shutil.rmtree(photos / "test")
    (photos / "test/Bag").mkdir(parents=True)
    shutil.copy(photos / "train/Bag/0.png", photos / "test/Bag/0.png")
    assert training_sample(run, 20, Silent()).equal(expected)


def test_a_sample_is_that_of_the_images_that_could_be_read(photos, tiny_recipe):
    shutil.rmtree(photos / "test")
    for number in range(3):
        (photos / f"train/Bag/{number}.png").write_bytes(b"no image")
    run, _ = started(photos, tiny_recipe, skip_bad=True)
    data = load([photos], tiny_recipe.data, skip_bad=True)
    assert training_sample(run, 50, Silent()).equal(sample(data.train, 50))


def test_a_sample_of_named_images(photos, tiny_recipe):
    named = Source(("fashion-mnist-mini",))
    data = load(named.data, tiny_recipe.data)
    start_run(photos.parent / "named", tiny_recipe, data, named)
    assert training_sample(photos.parent / "named", 20, Silent()).equal(sample(data.train, 20))

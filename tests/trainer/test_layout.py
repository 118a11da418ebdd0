"""Splits are known by their usual names, wherever they lie; those that are not known are never trained as classes."""

from __future__ import annotations

import pytest

from folders import kinds, lay, lay_splits, packed
from trainer.data import load, load_labelled
from trainer.errors import DataError


@kinds
@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("Training", "Testing"),
        ("TRAIN", "VAL"),
        ("seg_train", "seg_test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train_images", "test_images"),
        ("Training Set", "Test Set"),
        ("DatasetTrain", "DatasetTest"),
        ("train", "dev"),
        ("training", "eval"),
        ("train/images", "valid/images"),
        ("archive/Train", "archive/Test"),
        ("archive/data/train", "archive/data/test"),
        ("photos/seg_train/seg_train", "photos/seg_test/seg_test"),
        ("train", "test1"),
        ("trainset", "testset"),
    ],
)
def test_they_are_known_by_their_usual_names(tmp_path, kind, train, test):
    source = packed(lay_splits(tmp_path / "data", train, test), kind, tmp_path)
    data = load([source])
    assert data.labels == ("cat", "dog")
    assert len(data.test) == 6
    prefix = test.removeprefix("archive/").removeprefix("data/").removeprefix("photos/")
    assert all(name.startswith(f"{prefix}/") for name in data.test.names)
    assert len(load_labelled([source], data.labels, data.preprocessing.input)) == 6


def test_three_of_them_are_used_as_they_are(tmp_path):
    data = load([lay_splits(tmp_path, "seg_train", "seg_val", "seg_test")])
    assert [len(split) for split in (data.train, data.validation, data.test)] == [6, 6, 6]
    assert all(name.startswith("seg_val/") for name in data.validation.names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Treino", "Teste"], r"Teste/ and Treino/ hold the same folders \(cat, dog\).* rename them to train/"),
        (["fold1", "fold2", "fold3"], r"hold the same folders"),
        (["seg_train", "seg_test", "seg_pred"], r"seg_pred/ is beside seg_test/ and seg_train/"),
        (["Train", "extra"], r"Train/ is beside class folders"),
        (["train", "train_masks"], r"train/ is beside class folders"),
        (["train", "training", "test"], r"training/ is beside test/ and train/"),
        (["amazon/images", "webcam/images"], r"amazon/ and webcam/ hold the same folders \(images/cat, images/dog\)"),
        (
            ["train", "test", "unlabelled"],
            r"unlabelled/ is beside test/ and train/, which look like splits; move it",
        ),
    ],
)
def test_those_that_are_not_known_are_never_classes(tmp_path, names, message):
    with pytest.raises(DataError, match=message):
        load([lay_splits(tmp_path, *names)])


def test_a_small_split_with_another_name_is_no_class(tmp_path):
    many = tuple(f"class{number:02d}" for number in range(20))
    lay_splits(tmp_path, "Treino", classes=many)
    lay_splits(tmp_path, "Teste", classes=many[:3])
    with pytest.raises(DataError, match="hold the same folders"):
        load([tmp_path])


def test_splits_without_class_folders_are_no_classes(tmp_path):
    lay(tmp_path, *(f"{split}/{number}.png" for split in ("train", "test") for number in range(3)))
    with pytest.raises(DataError, match=r"test/0\.png, test/1.* test/2\.png, .*: lie in no class folder"):
        load([tmp_path])


def test_splits_fused_with_classes_are_no_classes(tmp_path):
    lay(tmp_path, *(f"{top}/{number}.png" for top in ("trainA", "trainB", "testA", "testB") for number in range(3)))
    with pytest.raises(DataError, match="which look like splits"):
        load([tmp_path])


def test_splits_in_the_class_folders_are_named(tmp_path):
    lay_splits(tmp_path, *(f"class{number}" for number in range(30)), classes=("train", "test"))
    with pytest.raises(DataError, match=r"holds test/ and train/; put the classes into the splits: test/class0/NAME"):
        load([tmp_path])


@pytest.mark.parametrize(
    "classes",
    [
        ("car", "train", "bus"),
        ("model_train", "toy_train"),
        ("train station", "test tube"),
        ("valid", "invalid"),
        ("cat", "high_speed_train"),
    ],
)
def test_a_class_may_have_such_a_name(tmp_path, classes):
    lay(tmp_path, *(f"{name}/{number}.png" for name in classes for number in range(3)))
    assert load([tmp_path]).labels == tuple(sorted(classes))


def test_classes_may_have_folders_of_their_own(tmp_path):
    lay_splits(tmp_path, "cat", "dog", classes=("images",))
    lay(tmp_path, "owl/2019/0.png", "owl/2020/1.png", "owl/2.png")
    assert load([tmp_path]).labels == ("cat", "dog", "owl")


def test_folders_that_are_given_one_by_one_are_splits_too(tmp_path):
    lay_splits(tmp_path, "seg_train", "seg_test")
    data = load([tmp_path / "seg_train", tmp_path / "seg_test"])
    assert (len(data.test), {name.partition("/")[0] for name in data.test.names}) == (6, {"test"})
    assert load([tmp_path / "seg_train"]).labels == ("cat", "dog")  # alone, it is all there is

"""Data: every layout in the help text, stable ids, splits that depend on the ids, and the messages for bad data."""

import io
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import sdk
from clothes import CLASSES, unpack_clothes
from jobs import Told
from sdk.errors import UsageError
from sdk.images import pixels
from trainer.data import UNLABELLED, FileImages, MemoryImages, load, load_labelled
from trainer.data.named import FASHION_MNIST_LABELS
from trainer.data.samples import spread
from trainer.errors import DataError
from trainer.progress import Silent
from trainer.recipe import DataRecipe
from trainer.run import remembered_source, start_run
from trainer.start import RunRequest, prepare, source_of


@pytest.mark.slow
def test_the_embedded_images_are_a_balanced_tenth():
    data = load(["fashion-mnist-mini"])
    assert sorted(data.labels) == sorted(FASHION_MNIST_LABELS)
    assert torch.bincount(data.train.labels).tolist() == [720] * 10
    assert torch.bincount(data.validation.labels).tolist() == [80] * 10
    assert torch.bincount(data.test.labels).tolist() == [200] * 10
    assert data.train.pixels().shape == (7200, 28, 28, 3)
    assert len({*data.train.ids.tolist(), *data.validation.ids.tolist(), *data.test.ids.tolist()}) == 10_000


def test_pixels_are_those_that_the_device_sees(clothes):
    data = load([clothes], DataRecipe(size=20))
    for row in (0, 30):
        expected = pixels(clothes / data.train.names[row], data.preprocessing.input)
        assert np.array_equal(data.train.pixels()[row].numpy(), expected)


def archive_zip(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png"), reverse=True):
            archive.write(file, file.relative_to(folder))
    return path


def test_a_folder_a_zip_and_a_tar_are_the_same_data(clothes, tmp_path):
    wrapped = tmp_path / "photos.tar.gz"
    with tarfile.open(wrapped, "w:gz") as archive:
        archive.add(clothes, "photos")
        archive.addfile(tarfile.TarInfo("photos/train/Bag/._0.png"), io.BytesIO())
    hashes = {load([source]).hash() for source in (clothes, archive_zip(clothes, tmp_path / "photos.zip"), wrapped)}
    assert len(hashes) == 1


def test_archives_named_after_their_split_are_joined(clothes, tmp_path):
    train = archive_zip(clothes / "train", tmp_path / "clothes-train-0.zip")
    test = archive_zip(clothes / "test", tmp_path / "clothes-test.zip")
    assert load([train, test]).hash() == load([clothes]).hash()


def test_class_folders_alone_are_split_by_the_ids(clothes, tmp_path):
    data = load([clothes / "train"], DataRecipe(holdout=0.25))
    for split, each in ((data.train, 12), (data.validation, 6), (data.test, 6)):
        assert torch.bincount(split.labels).tolist() == [each] * 3
    assert not set(data.train.names) & {*data.validation.names, *data.test.names}
    assert set(data.validation.names).isdisjoint(data.test.names)

    fewer = shutil.copytree(clothes / "train", tmp_path / "fewer")
    for name in data.test.names[:3]:
        (fewer / name).unlink()
    again = load([fewer], DataRecipe(holdout=0.25))
    assert set(again.test.names) - set(data.test.names) <= {*data.validation.names, *data.train.names}
    kept = set(data.test.names) & set(again.test.names)
    assert kept == set(data.test.names[3:])  # an image keeps its split when others are removed


def test_given_val_and_test_are_used_as_they_are(clothes, tmp_path):
    folder = shutil.copytree(clothes, tmp_path / "three")
    for name in CLASSES:
        (folder / "val" / name).mkdir(parents=True)
        (folder / "train" / name / "0.png").rename(folder / "val" / name / "0.png")
    data = load([folder])
    assert [len(split) for split in (data.train, data.validation, data.test)] == [69, 3, 24]
    assert all(name.startswith("val/") for name in data.validation.names)


def test_a_class_may_be_called_train(clothes, tmp_path):
    folder = shutil.copytree(clothes / "train", tmp_path / "vehicles")
    (folder / "Bag").rename(folder / "train")
    for source in (folder, archive_zip(folder, tmp_path / "vehicles-train.zip")):
        data = load([source])
        assert data.labels == ("Sneaker", "Trouser", "train")
        assert len(data.train) + len(data.validation) + len(data.test) == 72


def test_a_share_of_the_labels_is_used_and_the_other_images_stay(clothes, tmp_path):
    whole, data = load([clothes]), load([clothes], DataRecipe(labels=0.25))
    assert torch.bincount(data.train.labels).tolist() == [6, 6, 6]  # of 22 each
    assert len(data.unlabelled) == 3 * 16
    assert data.unlabelled.labels.unique().tolist() == [UNLABELLED]
    assert {*data.train.names, *data.unlabelled.names} == set(whole.train.names)
    assert data.students.names == data.train.names + data.unlabelled.names
    assert data.students.pixels().shape == whole.train.pixels().shape
    assert data.validation.hash() == whole.validation.hash()
    assert data.hash() != whole.hash()
    assert whole.unlabelled is None
    assert whole.students is whole.train
    assert torch.bincount(load([clothes], DataRecipe(labels=1e-6)).train.labels).tolist() == [1, 1, 1]

    fewer = shutil.copytree(clothes, tmp_path / "fewer")
    for name in data.unlabelled.names[::16]:
        (fewer / name).unlink()
    again = load([fewer], DataRecipe(labels=0.25))
    assert {*data.validation.names, *data.train.names} >= {
        *again.train.names
    }  # an image keeps its label when others are removed


def test_unlabelled_images_may_lie_in_any_layout(clothes, tmp_path):
    (tmp_path / "deep/er").mkdir(parents=True)
    shutil.copy(clothes / "test/Bag/0.png", tmp_path / "top.png")
    shutil.copy(clothes / "test/Bag/1.png", tmp_path / "deep/er/0.png")
    archive = archive_zip(clothes / "test", tmp_path / "more.zip")
    plain, data = load([clothes]), load([clothes], unlabelled=[tmp_path, archive])
    assert (data.train.hash(), data.labels) == (plain.train.hash(), plain.labels)
    assert len(data.unlabelled) == 2 + 24
    assert data.unlabelled.names[:2] == ["unlabelled/deep/er/0.png", "unlabelled/top.png"]
    assert data.students.labels[len(data.train) :].unique().tolist() == [UNLABELLED]
    assert data.hash() != plain.hash()
    expected = pixels(tmp_path / "top.png", data.preprocessing.input)
    assert np.array_equal(data.unlabelled.pixels()[1].numpy(), expected)
    with pytest.raises(DataError, match=r"unlabelled/Bag/0\.png: is in two of the sources"):
        load([clothes], unlabelled=[clothes / "test", archive])


def test_images_are_the_same_in_memory_and_as_files(clothes):
    in_memory = load([clothes]).train
    as_files = load([clothes], DataRecipe(memory_gb=0)).train
    assert (as_files.images.nbytes, in_memory.images.nbytes) == (0, 66 * 28 * 28 * 3)
    some = torch.tensor([5, 0, 5])
    for memory, files in (
        (in_memory, as_files),
        (in_memory.take(some), as_files.take(some)),
        (in_memory.take(some).joined(in_memory), as_files.take(some).joined(as_files)),
        (in_memory.to(torch.device("cpu")), as_files.in_memory()),
    ):
        assert len(files.images) == len(memory.images) == len(files)
        assert files.images.size == memory.images.size == (28, 28)
        assert files.images.digests() == memory.images.digests()
        assert torch.equal(files.pixels(), memory.pixels())
        assert files.hash() == memory.hash()
    assert in_memory.images.in_memory() is in_memory.images
    assert in_memory.take(some).names == [in_memory.names[index] for index in some]


def test_a_large_dataset_stays_files_and_is_the_same_data(tmp_path):
    folder = unpack_clothes(tmp_path / "labelled", train=50, test=8)
    more = unpack_clothes(tmp_path / "more", train=1, test=0)
    (folder / "train/Bag/0.png").write_bytes(b"no image")
    for sources in ([folder], [folder / "train"]):
        small = load(sources, DataRecipe(labels=0.5), unlabelled=[more])
        large = load(sources, DataRecipe(labels=0.5, memory_gb=1e-6), unlabelled=[more])
        for split in (large.train, large.unlabelled, large.students):
            assert isinstance(split.images, FileImages)
        assert (len(large.train), large.train.images.size) == (len(small.train), small.train.images.size)
        for given, expected in ((large.validation, small.validation), (large.test, small.test)):
            assert isinstance(given.images, MemoryImages)
            assert torch.equal(given.pixels(), expected.pixels())
        assert large.hash() == small.hash()
        assert large.skipped == small.skipped
        assert len(large.skipped) == 1
    (folder / "train/Bag/1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="2 of 174 images can't be read"):
        load([folder], DataRecipe(memory_gb=0))


def test_large_images_are_scaled_to_the_default_size(tmp_path):
    draw = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(4):
            image = Image.fromarray(draw.integers(0, 256, (150, 200, 3), np.uint8))
            image.save(tmp_path / label / f"{number}.jpg")
    assert load([tmp_path]).train.pixels().shape[1:] == (96, 96, 3)
    assert load([tmp_path], DataRecipe(size=64)).train.pixels().shape[1:] == (64, 64, 3)


def test_an_unreadable_image_is_named_and_skipped(tmp_path):
    folder = unpack_clothes(tmp_path, train=40, test=8)
    whole = load([folder])
    victim = folder / whole.train.names[0]
    victim.write_bytes(victim.read_bytes()[:80])
    data = load([folder])
    assert len(data.train) + len(data.validation) == 119
    assert whole.train.names[0] not in data.train.names
    (reason,) = data.skipped
    assert reason.startswith(f"{whole.train.names[0]}: not a readable image")


def test_more_than_one_percent_unreadable_stops(tmp_path):
    folder = unpack_clothes(tmp_path)
    for name in ("0.png", "1.png"):
        (folder / "train" / "Bag" / name).write_bytes(b"no image")
    with pytest.raises(
        DataError,
        match=r"2 of 96 images can.t be read \(\.png 2: train/Bag/0.png, train/Bag/1.png\), more than 1 %.*--skip-bad",
    ):
        load([folder])


def test_more_than_one_percent_unreadable_are_left_out_on_demand_and_a_run_remembers_that(tmp_path, tiny_recipe):
    folder = unpack_clothes(tmp_path / "data")
    for number in range(12):
        (folder / f"train/Bag/{number}.png").write_bytes(b"no image")
    told = Told()
    data = load([folder], skip_bad=True, progress=told)
    assert len(data.skipped) == 12
    assert len(data.train) + len(data.validation) == 60
    lines = [line for line in told.lines if line.startswith("skipped: ")]
    assert len(lines) == 11
    assert lines[0].startswith("skipped: train/Bag/0.png: ")
    assert lines[-1] == "skipped: 12 of 96 images can't be read (.png 12), 2 of them not named here"
    source = source_of(folder, skip_bad=True)
    run = start_run(tmp_path / "run", tiny_recipe, data, source)
    assert remembered_source(run.folder) == source
    assert len(prepare(RunRequest(out=run.folder), Silent()).data.skipped) == 12
    with pytest.raises(UsageError, match="--skip-bad goes with --data"):
        source_of(None, skip_bad=True)


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (40, "size: 40x40 pixels; the median of the images' shorter sides is 40"),
        (
            300,
            "size: 96x96 pixels; the median of the images' shorter sides is 300, but no size above 96 is chosen by "
            "itself; --size sets another",
        ),
    ],
)
def test_the_size_is_told_with_its_reason(tmp_path, width, line):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (width, width + 20), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    told = Told()
    load([tmp_path], progress=told)
    assert told.lines == [line]


def test_a_model_is_scored_on_the_test_split_or_on_all_images(clothes):
    input = sdk.Preprocessing.square(28).input
    assert len(load_labelled([clothes], CLASSES, input)) == 24
    everything = load_labelled([clothes / "train"], ("x", *CLASSES), input)
    assert torch.bincount(everything.labels).tolist() == [0, 24, 24, 24]
    with pytest.raises(DataError, match="class 'Bag' is not one of the model's 2"):
        load_labelled([clothes], ("Sneaker", "Trouser"), input)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no images in it"),
        (["notes.txt"], "no images in it"),
        (["0.png", "1.png"], r"0\.png, 1\.png: lie in no class folder; move them into one"),
        (["a/0.png", "a/1.png", "a/2.png"], "only one class"),
        (["a/0.png", "a/1.png", "a/2.png", "b/0.png"], "class 'b' has 1 readable image, but needs 3"),
        (["train/a/0.png", "train/a/1.png", "train/b/0.png", "test/a/2.png"], "class 'b' has 1 readable image"),
        (
            ["train/a/0.png", "train/a/1.png", "train/b/0.png", "train/b/1.png", "test/c/0.png"],
            "class 'c' has no training",
        ),
        (["train/a/0.png", "a/1.png"], "train/ is beside class folders"),
        (["test/a/0.png", "test/b/1.png"], "images for training are missing"),
    ],
)
def test_data_that_can_not_be_used_is_named(tmp_path, clothes, files, message):
    image = next(clothes.rglob("*.png")).read_bytes()
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(image if name.endswith(".png") else b"text")
    with pytest.raises(DataError, match=message):
        load([tmp_path])


def test_a_source_without_data_is_named(tmp_path, clothes):
    with pytest.raises(DataError, match="no such folder or archive"):
        load([tmp_path / "nowhere"])
    (tmp_path / "file.bin").write_bytes(b"abc")
    with pytest.raises(DataError, match="neither a folder nor a complete zip or tar"):
        load([tmp_path / "file.bin"])
    with pytest.raises(DataError, match="is in two of the sources"):
        load([clothes, clothes])


def test_a_truncated_archive_is_named(clothes, tmp_path):
    whole = archive_zip(clothes, tmp_path / "whole.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as archive:
        archive.add(clothes, "photos")
    packed = (tmp_path / "whole.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(packed[: len(packed) // 2])
    for name in ("cut.zip", "cut.tar.gz"):
        with pytest.raises(DataError, match=rf"{name}: (neither a folder nor a complete zip|a damaged archive)"):
            load([tmp_path / name])

    damaged = bytearray(whole)
    start = damaged.index(b"\x89PNG") + 40
    damaged[start : start + 20] = b"\xff" * 20
    (tmp_path / "damaged.zip").write_bytes(damaged)
    with pytest.raises(DataError, match="1 of 96 images can't be read"):
        load([tmp_path / "damaged.zip"])


def test_too_many_pixels_for_memory_are_refused_before_any_work(clothes, monkeypatch):
    monkeypatch.setattr("trainer.data.files.MAX_MEMORY", 1000)
    with pytest.raises(DataError, match=r"set a smaller data\.size"):
        load([clothes])


def test_spread_indices_stay_inside_of_more_images_than_float32_can_count():
    assert spread(20_000_000, 3).tolist() == [0, 10_000_000, 19_999_999]
    assert spread(3, 8).tolist() == [0, 1, 2]

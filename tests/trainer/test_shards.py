"""Data in shards: the same images, labels and ids as in a folder, streamed, and what can't be read is named."""

from __future__ import annotations

import io
import shutil
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from clothes import CLASSES, unpack_clothes
from folders import PNG, lay
from jobs import Told
from tars_of_samples import by_id, pack_into, streamed, units_of
from trainer import lanes as lanes_room
from trainer.data import Form, MemoryImages, Split, load, wanted
from trainer.data.named import NAMED, Named
from trainer.data.shards.packing import key_of
from trainer.data.split import sample_ids
from trainer.errors import DataError, RecipeError
from trainer.lanes import Lanes
from trainer.recipe import DataRecipe

CPU = torch.device("cpu")


class TestPacked:
    def test_shards_hold_what_the_folder_holds(self, photos, shards):
        folder, data = load([photos]), load([shards])
        assert (data.labels, data.preprocessing) == (folder.labels, folder.preprocessing)
        assert by_id(data.validation) == by_id(folder.validation)
        assert by_id(data.test) == by_id(folder.test)
        assert sorted(data.test.names) == sorted(folder.test.names)
        assert data.train.counts(3).tolist() == folder.train.counts(3).tolist()
        expected = by_id(folder.train)
        found = streamed(data.train)
        odd = sum(size % 2 for size in data.train.unit_sizes)
        assert len(found) == len(expected) - odd == len(data.train) - odd
        assert found.items() <= expected.items()

    def test_a_stored_size_has_the_pixels_of_that_size(self, photos, tmp_path):
        data = load([pack_into(tmp_path / "small", photos, Form(size=16))])
        folder = load([photos], DataRecipe(size=16))
        assert data.preprocessing == folder.preprocessing
        assert streamed(data.train).items() <= by_id(folder.train).items()

    def test_with_a_quality_the_images_are_jpeg_and_nearly_the_same(self, photos, tmp_path):
        place = pack_into(tmp_path / "small", photos, Form(size=16, quality=95))
        with tarfile.open(place / "test-000000.tar") as archive:
            assert {name.rpartition(".")[2] for name in archive.getnames()} == {"jpg", "cls"}
        data, folder = load([place]), load([photos], DataRecipe(size=16))
        exact = dict(zip(folder.test.names, folder.test.pixels().int(), strict=True))
        for name, pixels in zip(data.test.names, data.test.pixels().int(), strict=True):
            assert 0 < (pixels - exact[name]).abs().float().mean() < 8

    def test_packing_again_gives_the_same_bytes(self, photos, shards, tmp_path):
        again = pack_into(tmp_path / "again", photos, per_shard=31)
        assert sorted(path.name for path in again.iterdir()) == sorted(path.name for path in shards.iterdir())
        assert all((again / path.name).read_bytes() == path.read_bytes() for path in shards.iterdir())

    def test_odd_names_keep_their_ids(self, tmp_path):
        names = ["a.b.c.png", "100%.png", "100%25.png", "é\udcff.PNG", "x" * 120 + ".png", "no-suffix", "__meta__.png"]
        folder = lay(tmp_path / "odd", *(f"{split}/__cat__/{name}" for split in ("train", "test") for name in names))
        lay(folder, *(f"{split}/v1.0/{n}.png" for split in ("train", "test") for n in range(8)))
        lay(folder, *(f"val/{label}/1.png" for label in ("__cat__", "v1.0")))
        data = load([pack_into(tmp_path / "shards", folder, per_shard=100)])
        expected = load([folder])
        assert data.labels == expected.labels == ("__cat__", "v1.0")
        assert sorted(data.test.names) == sorted(expected.test.names)
        assert set(streamed(data.train)) <= set(expected.train.ids.tolist())
        assert len(data.train) == len(expected.train) == 15

    def test_keys_never_meet(self):
        names = ["a.png", "a%2Epng", "a%252Epng", "a_png", "b/a.png", "b.a/png", "__a.png", "%5F_a.png"]
        assert len({key_of(name) for name in names}) == len(names)
        assert all("." not in key_of(name).rpartition("/")[2] for name in names)

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves a file open
    def test_webdataset_itself_reads_them(self, photos, shards):
        place = str(shards / "train-000000.tar")
        samples = list(
            webdataset.WebDataset(place, shardshuffle=False).decode("rgb8").to_tuple("png", "cls", "__key__")
        )
        assert len(samples) == 31
        for image, label, key in samples:
            split, name, file = key.split("/")
            assert name == CLASSES[label]
            original = Image.open(photos / split / name / file.replace("%2E", ".")).convert("RGB")
            np.testing.assert_array_equal(image, np.asarray(original))

    def test_unlabelled_images_follow(self, photos, tmp_path):
        extra = unpack_clothes(tmp_path / "extra", train=0, test=20)
        data, expected = (
            load([pack_into(tmp_path / "shards", photos, unlabelled=[extra])]),
            load([photos], unlabelled=[extra]),
        )
        assert data.unlabelled is not None
        assert expected.unlabelled is not None
        assert len(data.unlabelled) == len(expected.unlabelled) == 60
        assert len(data.students) == len(expected.students)
        rows = data.students.rows(0, 0, range(len(data.train) + 50, len(data.students)))
        assert rows.labels.tolist() == [-1] * 10
        assert set(rows.ids.tolist()) < {key for key, _ in zip(by_id(expected.unlabelled), range(60), strict=True)}
        assert data.students.counts(3).tolist() == expected.students.counts(3).tolist()

    def test_a_named_dataset_keeps_its_pixels_and_its_classes(self, tmp_path, monkeypatch):
        draw = torch.Generator().manual_seed(0)

        def split(name: str, count: int) -> Split:
            names = [f"{name}/{n:05d}" for n in range(count)]
            images = MemoryImages(torch.randint(256, (count, 12, 12, 3), generator=draw, dtype=torch.uint8))
            return Split(images, torch.arange(count) % 3, sample_ids(names), names)

        small = Named(split("train", 40), split("test", 9), ("zebra", "1", "0"))
        monkeypatch.setitem(NAMED, "cifar10", lambda root: small)
        data, expected = load([pack_into(tmp_path / "shards", "cifar10", per_shard=12)]), load(["cifar10"])
        assert data.labels == ("zebra", "1", "0")
        assert by_id(data.test) == by_id(expected.test)
        assert streamed(data.train).items() <= by_id(expected.train).items()
        assert len(data.train) == len(expected.train)

    def test_a_few_are_spread(self, shards, photos):
        few = load([shards]).train.few(40)
        assert by_id(few).items() <= by_id(load([photos]).train).items()
        assert len(few) == 40


class TestOrder:
    def test_pairs_never_cross_a_shard(self, shards):
        train = load([shards]).train
        starts = np.cumsum([0, *train.unit_sizes])
        for rows in train.epoch(3, 1, 2, 16, Lanes(2)):
            shard = np.searchsorted(starts, rows.indices.numpy(), side="right")
            assert (shard[::2] == shard[1::2]).all()
            assert (rows.places[1::2] == rows.places[::2] + 1).all()

    def test_a_place_has_the_same_sample_in_every_epoch(self, shards):
        train = load([shards]).train
        of = [
            {
                p: i
                for rows in train.epoch(3, 1, n, 16, Lanes(2))
                for p, i in zip(rows.places.tolist(), rows.ids.tolist(), strict=True)
            }
            for n in (0, 1)
        ]
        both = of[0].keys() & of[1].keys()
        assert len(both) > 100
        assert all(of[0][place] == of[1][place] for place in both)
        whole = torch.cat([train.rows(3, 1, places).ids for places in units_of(train)])
        assert all(whole[place] == key for place, key in of[0].items())
        other = torch.cat([train.rows(3, 2, places).ids for places in units_of(train)])
        assert not torch.equal(other, whole)
        assert torch.equal(other.sort().values, whole.sort().values)

    def test_epochs_differ(self, shards):
        train = load([shards]).train
        first, second = ([rows.ids.tolist() for rows in train.epoch(3, 1, n, 16, Lanes(2))] for n in (0, 1))
        assert first != second

    @pytest.mark.parametrize("world", [2, 4])
    def test_processes_show_the_lanes_of_one_process(self, world, shards, monkeypatch):
        train, lanes = load([shards]).train, Lanes(4)
        alone = list(train.epoch(3, 1, 2, 32, lanes))
        monkeypatch.setattr(lanes_room, "world_size", lambda: world)
        of_rank = []
        for rank in range(world):
            monkeypatch.setattr(lanes_room, "rank", lambda rank=rank: rank)
            of_rank.append(list(load([shards]).train.epoch(3, 1, 2, 32, lanes)))
            assert [lanes.own(rows.ids).tolist() for rows in alone] == [rows.ids.tolist() for rows in of_rank[-1]]

    @pytest.mark.parametrize("start", [1, 3, 9])
    def test_an_epoch_goes_on_where_it_was_left(self, start, shards):
        train = load([shards]).train
        whole = list(train.epoch(3, 1, 2, 16, Lanes(4)))
        rest = list(load([shards]).train.epoch(3, 1, 2, 16, Lanes(4), start=start))
        assert len(rest) == len(whole) - start == train.steps(16, Lanes(4)) - start
        assert all(torch.equal(one.ids, other.ids) for one, other in zip(rest, whole[start:], strict=True))

    def test_one_shard_is_enough_for_many_lanes(self, photos, tmp_path):
        train = load([pack_into(tmp_path / "shards", photos, per_shard=1000)]).train
        assert len(train.unit_sizes) == 1
        rows = list(train.epoch(0, 0, 0, 16, Lanes(8)))
        assert len(torch.cat([one.ids for one in rows]).unique()) == 16 * len(rows) == len(train) // 16 * 16

    def test_a_batch_that_the_lanes_can_not_share_is_refused(self, shards):
        with pytest.raises(RecipeError, match=r"set training.batch = 32"):
            Lanes(8).check(40, 162, is_streamed=True)
        with pytest.raises(RecipeError, match="do not fill a batch of 512"):
            load([shards]).train.steps(512, Lanes(2))

    def test_memory_does_not_grow_with_the_shards(self, tmp_path):
        def peak(count: int) -> int:
            data = load([numbered(tmp_path / str(count), count)])
            tracemalloc.start()
            for rows in data.train.epoch(0, 0, 0, 4, Lanes(1)):
                assert len(rows) == 4
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return most

        peak(2)
        assert peak(30) < 1.1 * peak(6) + 10_000


def numbered(folder: Path, count: int) -> Path:
    """Pack many small images of two classes: `count` shards to train on."""
    images = lay(folder / "images", *(f"train/{c}/{n}.png" for c in "ab" for n in range(10 * count)))
    lay(images, *(f"{split}/{c}/0.png" for split in ("val", "test") for c in "ab"))
    return pack_into(folder / "shards", images, per_shard=20)


def test_images_that_can_not_be_packed_are_named(photos, tmp_path):
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    (folder / "train" / CLASSES[0] / "3.png").write_bytes(PNG[:50])
    told = Told()
    place = pack_into(tmp_path / "shards", folder, progress=told)
    assert sum("train/Bag/3.png" in line for line in told.lines) == 1
    assert load([place]).train.counts(3).sum() == len(load([place]).train) == 161
    for n in range(4, 9):
        (folder / "train" / CLASSES[0] / f"{n}.png").write_bytes(PNG[:50])
    with pytest.raises(DataError, match=r"6 of 216 images can't be read .*more than 1 %"):
        pack_into(tmp_path / "others", folder)
    assert not (tmp_path / "others" / "shards.json").exists()
    pack_into(tmp_path / "others", folder, skip_bad=True)
    assert len(load([tmp_path / "others"]).train) == 156


def test_data_that_no_training_takes_is_not_packed(tmp_path):
    with pytest.raises(DataError, match=r"only one class \(cat\)"):
        wanted([lay(tmp_path / "one", "cat/1.png", "cat/2.png", "cat/3.png")])
    with pytest.raises(DataError, match="images for training are missing"):
        wanted([lay(tmp_path / "test", "val/a/1.png", "val/b/1.png", "test/a/1.png", "test/b/1.png")])


def test_a_list_is_named_by_its_folder_its_path_or_its_url(shards):
    places = [shards, shards / "shards.json", f"file:{shards}/shards.json"]
    assert len({load([place]).hash() for place in places}) == 1


def test_an_image_is_stored_as_it_was(tmp_path):
    with io.BytesIO() as file:
        Image.fromarray(np.full((30, 20, 3), 99, np.uint8)).save(file, "WEBP")
        content = file.getvalue()
    folder = lay(tmp_path / "images", *(f"{c}/{n}" for c in "ab" for n in range(4)), content=content)
    place = pack_into(tmp_path / "shards", folder)
    with tarfile.open(place / "train-000000.tar") as archive:
        members = [member for member in archive if member.name.endswith(".webp")]
        assert len(members) == 4
        assert {archive.extractfile(member).read() for member in members} == {content}

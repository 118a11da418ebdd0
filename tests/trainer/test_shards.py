"""Data in shards: the same images, labels and ids as in a folder, streamed, and what can't be read is named."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from webdataset.writer import TarWriter

from clothes import CLASSES, unpack_clothes
from folders import PNG, lay, tar
from jobs import Told
from trainer import lanes as lanes_room
from trainer.data import Form, MemoryImages, Split, load, pack, wanted
from trainer.data.files import digest
from trainer.data.named import NAMED, Named
from trainer.data.shards.packing import key_of
from trainer.data.shards.tar import opened
from trainer.data.split import sample_ids
from trainer.errors import DataError, RecipeError
from trainer.lanes import Lanes
from trainer.progress import Silent
from trainer.recipe import DataRecipe

CPU = torch.device("cpu")


def pack_into(out: Path, source: Path | str, form: Form = Form(), per_shard: int = 50, **options) -> Path:  # noqa: B008
    extra = options.pop("unlabelled", ())
    images = wanted([source], unlabelled=extra)
    pack(images, out, DataRecipe(), form, per_shard=per_shard, **{"skip_bad": False, "progress": Silent(), **options})
    return out


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return unpack_clothes(tmp_path_factory.mktemp("photos"), train=60, test=12)


@pytest.fixture(scope="module")
def shards(photos, tmp_path_factory) -> Path:
    return pack_into(tmp_path_factory.mktemp("packed") / "shards", photos, per_shard=31)


def by_id(samples) -> dict[int, tuple[int, str]]:
    """Return the class of each sample of a split, and a digest of its pixels."""
    rows = zip(samples.ids.tolist(), samples.labels.tolist(), samples.pixels(), strict=True)
    return {key: (label, digest(pixels.numpy()).hex()) for key, label, pixels in rows}


def streamed(samples, lanes: Lanes = Lanes(1), batch: int = 2, **epoch) -> dict[int, tuple[int, str]]:  # noqa: B008
    """Return the same of what an epoch shows."""
    rows = list(samples.epoch(epoch.get("seed", 0), 0, epoch.get("number", 0), batch, lanes))
    found = {}
    for one, pixels in zip(rows, samples.feed(one.indices for one in rows), strict=True):
        for key, label, image in zip(one.ids.tolist(), one.labels.tolist(), pixels, strict=True):
            assert key not in found, "twice in an epoch"
            found[key] = (label, digest(image.numpy()).hex())
    return found


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


def units_of(samples) -> list[range]:
    ends = np.cumsum(samples.unit_sizes).tolist()
    return [range(end - size, end) for end, size in zip(ends, samples.unit_sizes, strict=True)]


def shard_by_hand(path: Path, samples: dict[str, dict[str, bytes]], tar_format: str = "USTAR_FORMAT") -> Path:
    with path.open("wb") as file, TarWriter(file, encoder=False, format=tar_format) as writer:
        for key, members in samples.items():
            writer.write({"__key__": key, **members})
    return path


def simple(count: int, prefix: str = "", labels: tuple[bytes, ...] = (b"0", b"1")) -> dict[str, dict[str, bytes]]:
    return {f"{prefix}{n:04d}": {"png": PNG, "cls": labels[n % len(labels)]} for n in range(count)}


class TestForeign:
    """Shards that somebody else made."""

    @pytest.fixture
    def place(self, tmp_path) -> Path:
        for n in range(3):
            shard_by_hand(tmp_path / f"train-{n:04d}.tar", simple(20, f"t{n}-"))
        shard_by_hand(tmp_path / "val-0000.tar", simple(6, "v"))
        return tmp_path

    def test_a_pattern_names_them(self, place):
        told = Told()
        data = load([f"{place}/train-{{0000..0002}}.tar", f"{place}/val-0000.tar"], progress=told)
        assert data.labels == ("0", "1")
        assert len(data.test) == 6, "a single one is the test, as everywhere"
        assert (len(data.train), len(data.validation)) == (40, 20)
        assert any(line.startswith("held back: 20 samples, ") for line in told.lines)
        assert data.train.counts(2).tolist() == [20, 20]

    def test_the_shard_that_is_held_back_depends_on_its_content(self, place, tmp_path):
        (tmp_path / "moved").mkdir()
        for n in range(3):
            shutil.copy(place / f"train-{n:04d}.tar", tmp_path / "moved" / f"train-{2 - n:04d}.tar")
        here, moved = (load([f"{folder}/train-{{0000..0002}}.tar"]) for folder in (place, tmp_path / "moved"))
        assert sorted(here.validation.names) == sorted(moved.validation.names)
        assert sorted(here.test.names) == sorted(moved.test.names)

    @pytest.mark.parametrize("tar_format", ["USTAR_FORMAT", "GNU_FORMAT", "PAX_FORMAT"])
    def test_every_form_of_a_tar_is_read_like_tarfile_does(self, tar_format, tmp_path):
        names = [f"{'long/' * 60}ö{n}" if n % 2 and tar_format != "USTAR_FORMAT" else f"ö{n}" for n in range(6)]
        path = shard_by_hand(tmp_path / "train.tar", {n: {"jpg": PNG, "cls": b"1"} for n in names}, tar_format)
        with tarfile.open(path) as archive:
            expected = [(m.name.rpartition(".")[0], m.offset_data, m.size) for m in archive if m.name.endswith("jpg")]
        assert [(it.name, it.offset, it.size) for it in opened(str(path)).samples()] == expected
        assert all(sample.label == b"1" for sample in opened(str(path)).samples())

    def test_class_names_are_sorted_and_numbers_as_numbers(self, tmp_path):
        shard_by_hand(tmp_path / "train-0.tar", simple(24, "a", (b"10", b"9", b"2")))
        shard_by_hand(tmp_path / "train-1.tar", simple(24, "b", (b"10", b"9", b"2")))
        shard_by_hand(tmp_path / "test.tar", simple(6, "c", (b"10", b"9", b"2")))
        assert load([f"{tmp_path}/train-{{0,1}}.tar", f"{tmp_path}/test.tar"]).labels == ("2", "9", "10")
        shard_by_hand(tmp_path / "train-0.tar", simple(24, "a", (b"dog", b"cat")))
        shard_by_hand(tmp_path / "train-1.tar", simple(24, "b", (b"dog\n", b"cat")))
        shard_by_hand(tmp_path / "test.tar", simple(6, "c", (b"dog", b"cat")))
        data = load([f"{tmp_path}/train-{{0,1}}.tar", f"{tmp_path}/test.tar"])
        assert data.labels == ("cat", "dog")
        assert data.test.labels.tolist() == [1, 0] * 3

    def test_commands_and_urls_are_fetched_and_nothing_stays(self, place, tmp_path, monkeypatch):
        room = tmp_path / "temporary"
        room.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(room))
        data = load([f"pipe:cat {place}/train-{{0000..0002}}.tar", f"file:{place}/val-0000.tar"])
        local = load([f"{place}/train-{{0000..0002}}.tar", f"{place}/val-0000.tar"])
        assert data.hash() == local.hash()
        assert streamed(data.train) == streamed(local.train)
        assert list(room.iterdir()), "the shards that are open"
        del data
        assert list(room.iterdir()) == []

    def test_an_image_that_can_not_be_read_is_named_and_left_out(self, place):
        samples = simple(200, "x")
        samples["x0007"]["png"] = PNG[:60]
        shard_by_hand(place / "train-0001.tar", samples)
        told = Told()
        data = load([f"{place}/train-{{0000..0001}}.tar", f"{place}/val-0000.tar"], progress=told)
        assert [line for line in told.lines if line.startswith("skipped")] == [f"skipped: {data.skipped[0]}"]
        assert data.skipped[0].startswith(f"{place}/train-0001.tar: x0007: ")
        assert len(data.train) + len(data.validation) == 219
        assert len(streamed(data.train)) + len(data.validation) in (218, 219)

    @pytest.mark.parametrize(
        ("members", "reason"),
        [({"png": PNG}, "x0003: no class"), ({"cls": b"1"}, "x0003: no image"), ({"txt": b"?"}, "x0003: no image")],
    )
    def test_a_sample_without_a_part_is_named(self, members, reason, place):
        shard_by_hand(place / "train-0001.tar", simple(200, "x") | {"x0003": members})
        told = Told()
        load([f"{place}/train-{{0000..0001}}.tar", f"{place}/val-0000.tar"], progress=told)
        assert any(reason in line for line in told.lines)

    def test_too_many_of_them_are_refused_unless_the_user_says_so(self, place):
        samples = simple(20, "x")
        samples["x0003"]["png"] = b"not an image"
        shard_by_hand(place / "train-0001.tar", samples)
        sources = [f"{place}/train-{{0000..0002}}.tar", f"{place}/val-0000.tar"]
        with pytest.raises(DataError, match=r"1 of 66 samples can't be read .*x0003.*more than 1 %.*--skip-bad"):
            load(sources)
        assert len(load(sources, skip_bad=True).train) in (39, 40)

    @pytest.mark.parametrize("damage", ["cut", "header", "text", "gzip", "gone", "command"])
    def test_a_broken_shard_is_named_and_counts_as_one(self, damage, place):
        victim = place / "train-0001.tar"
        whole = victim.read_bytes()
        if damage == "gzip":
            tar(victim, {"x.png": PNG, "x.cls": b"1"}, "w:gz")
        else:
            second = whole.index(b"t1-0001")
            header = whole[:second] + b"T" + whole[second + 1 :]
            victim.write_bytes({"cut": whole[:9000], "header": header, "text": b"not a tar" * 99}.get(damage, whole))
        if damage == "gone":
            victim.unlink()
        name = "pipe:exit 3" if damage == "command" else str(victim)
        sources = [f"{place}/train-0000.tar", name, f"{place}/train-0002.tar", f"{place}/val-0000.tar"]
        with pytest.raises(DataError, match="1 of 4 shards can't be read") as caught:
            load(sources)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
        told = Told()
        data = load(sources, skip_bad=True, progress=told)
        assert len(data.train) + len(data.validation) == 40
        assert any(line.startswith(f"skipped: {name}: a shard that can't be read") for line in told.lines)

    def test_names_that_repeat_are_refused(self, place):
        shutil.copy(place / "train-0000.tar", place / "train-0001.tar")
        with pytest.raises(DataError, match="20 samples have the name of another one"):
            load([f"{place}/train-{{0000..0002}}.tar", f"{place}/val-0000.tar"])

    def test_shards_and_folders_do_not_go_together(self, place, photos):
        with pytest.raises(DataError, match=r"not in shards, but .* is; pack both together"):
            load([f"{place}/train-0000.tar", photos])
        with pytest.raises(DataError, match="not a shard, but --data is in shards"):
            load([f"{place}/train-{{0000..0001}}.tar"], unlabelled=[photos])
        with pytest.raises(DataError, match=r"data.labels is below 1"):
            load([f"{place}/train-{{0000..0001}}.tar"], DataRecipe(labels=0.5))

    def test_one_shard_can_not_be_held_back(self, place):
        with pytest.raises(DataError, match="too few shards to hold one back"):
            load([f"{place}/train-0000.tar"])

    def test_unlabelled_shards_need_no_classes(self, place, tmp_path):
        more = shard_by_hand(tmp_path / "more.tar", {f"u{n}": {"png": PNG} for n in range(10)})
        data = load([f"{place}/train-{{0000..0002}}.tar"], unlabelled=[more])
        assert data.unlabelled is not None
        assert len(data.unlabelled) == 10
        assert len(data.students) == len(data.train) + 10


class TestChanged:
    @pytest.fixture
    def own(self, shards, tmp_path) -> Path:
        return Path(shutil.copytree(shards, tmp_path / "own"))

    def test_a_shard_with_other_bytes_is_named_when_it_is_opened(self, own):
        victim = own / "train-000002.tar"
        content = bytearray(victim.read_bytes())
        content[3000] ^= 1
        victim.write_bytes(content)
        with pytest.raises(DataError, match=r"train-000002.tar: not the shard that was packed"):
            streamed(load([own]).train)

    @pytest.mark.parametrize("how", ["gone", "cut"])
    def test_a_missing_shard_is_named_before_anything_starts(self, own, how):
        victim = own / "train-000002.tar"
        victim.unlink() if how == "gone" else os.truncate(victim, 5000)
        with pytest.raises(DataError, match=r"1 of 9 shards can't be read .*train-000002.tar"):
            load([own])
        told, whole = Told(), len(load([own.parent / "own"], skip_bad=True).train)
        data = load([own], skip_bad=True, progress=told)
        assert len(data.train) == whole == 162 - 31
        assert any("train-000002.tar" in line for line in told.lines)

    def test_a_tar_that_shrinks_meanwhile_is_named(self, own):
        train = load([own]).train
        rows = list(train.epoch(0, 0, 0, 2, Lanes(1)))
        for path in own.glob("train-*.tar"):
            os.truncate(path, 2000)
        with pytest.raises(DataError, match=r"was cut off since this command began|not the shard|can't be read"):
            list(train.feed(one.indices for one in rows))

    @pytest.mark.parametrize(
        "url", ["pipe:touch owned", "../elsewhere.tar", "/etc/passwd", "http://x/y.tar", "a b.tar"]
    )
    def test_a_list_names_only_tars_beside_it(self, own, url, tmp_path):
        text = (own / "shards.json").read_text().replace("train-000001.tar", url)
        (own / "shards.json").write_text(text)
        with pytest.raises(DataError, match="not the name of a tar beside it"):
            load([own])
        assert not Path("owned").exists()

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('"libkd-shards/1"', '"libkd-shards/2"'),
            ('"Bag"', '"Sneaker"'),
            ('"samples": 31', '"samples": 0'),
            ('"splits"', '"slits"'),
            ("{", ""),
        ],
    )
    def test_a_damaged_list_is_refused(self, own, old, new):
        text = (own / "shards.json").read_text()
        assert old in text
        (own / "shards.json").write_text(text.replace(old, new, 1))
        with pytest.raises(DataError, match=r"shards.json: no list of shards") as caught:
            load([own])
        assert "\n" not in str(caught.value)

    def test_a_shard_that_is_listed_twice_is_refused(self, own):
        text = (own / "shards.json").read_text()
        first = text[text.index("{", text.index('"train"')) : text.index("}", text.index('"train"')) + 1]
        (own / "shards.json").write_text(text.replace(first, f"{first}, {first}", 1))
        with pytest.raises(DataError, match="a shard is in it twice"):
            load([own])


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

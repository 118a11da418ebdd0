"""Shards that somebody else made, or that changed: what can be read is read, and what can't is named."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest

from folders import PNG, tar
from jobs import Told
from tars_of_samples import shard_by_hand, simple, streamed
from trainer.data import load
from trainer.data.shards.tar import opened
from trainer.errors import DataError
from trainer.lanes import Lanes
from trainer.recipe import DataRecipe


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

    @pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_every_form_of_a_tar_is_read_like_tarfile_does(self, tar_format, tmp_path):
        names = [f"{'long/' * 60}ö{n}" if n % 2 and tar_format != tarfile.USTAR_FORMAT else f"ö{n}" for n in range(6)]
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

    def test_commands_and_urls_are_fetched_and_nothing_stays(self, place, monkeypatch):
        room = Path(tempfile.mkdtemp())  # of a short name, because sockets of workers may lie there
        monkeypatch.setattr("tempfile.tempdir", str(room))
        data = load([f"pipe:cat {place}/train-{{0000..0002}}.tar", f"file:{place}/val-0000.tar"])
        local = load([f"{place}/train-{{0000..0002}}.tar", f"{place}/val-0000.tar"])
        assert data.hash() == local.hash()
        assert streamed(data.train) == streamed(local.train)
        assert list(room.glob("libkd-sdk-*")), "the shards that are open"
        del data
        assert list(room.glob("libkd-sdk-*")) == []
        shutil.rmtree(room)

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

    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            ("pipe:echo secret; exit 3", "the command that fetches it ended with exit code 3"),
            ("s3://bucket/train.tar", "webdataset opens no such URL; give a command"),
            ("pipe:true", "cut off at byte 0"),
        ],
    )
    def test_what_can_not_be_fetched_is_told_in_one_short_line(self, url, reason):
        with pytest.raises(DataError) as caught:
            opened(url).samples()
        assert str(caught.value).startswith(f"{url}: a shard that can't be read ({reason}")
        assert "[" not in str(caught.value)

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

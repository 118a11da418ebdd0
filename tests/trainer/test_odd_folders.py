"""Folders and archives as people have them: links, odd suffixes, junk, names that are bytes, damage."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile

import numpy as np
import pytest

from clothes import CLASSES, unpack_clothes
from folders import PNG, kinds, lay, lay_splits, packed, written
from trainer.data import load, load_labelled, load_sample
from trainer.errors import DataError
from trainer.progress import Silent

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
JUNK = (
    "@eaDir/Bag/0.png/SYNOPHOTO_THUMB_M.jpg",
    "train/@eaDir/0.jpg",
    "train/Bag/._0.png",
    "train/.thumbs/0.png",
    "train/Bag/Thumbs.db",
    "train/Bag/desktop.ini",
    "__MACOSX/train/Bag/._0.png",
    "#recycle/a.png",
    "lost+found/a.png",
    "$RECYCLE.BIN/S-1-5/$IQ.png",
    "train/System Volume Information/a.png",
    ".DS_Store",
)


class Listener(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, text: str) -> None:
        self.lines.append(text)


class TestLinks:
    def test_linked_folders_and_files_are_followed(self, clothes, tmp_path):
        data, pool = tmp_path / "data", clothes
        (data / "train").mkdir(parents=True)
        (data / "test").symlink_to(pool / "test")
        for name in CLASSES[:2]:
            (data / "train" / name).symlink_to(pool / "train" / name)
        (data / "train" / CLASSES[2]).mkdir()
        for file in (pool / "train" / CLASSES[2]).iterdir():
            (data / "train" / CLASSES[2] / file.name).symlink_to(file)
        assert load([data]).hash() == load([pool]).hash()

    def test_loops_end(self, clothes, tmp_path):
        data = shutil.copytree(clothes, tmp_path / "data")
        (data / "train/Bag/again").symlink_to(data)
        (data / "train/Bag/above").symlink_to(tmp_path)
        (data / "train/Bag/self").symlink_to("self")
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere/back").symlink_to(data / "train")
        (data / "train/Bag/away").symlink_to(tmp_path / "elsewhere")
        assert load([data]).hash() == load([clothes]).hash()

    def test_folders_that_multiply_by_links_are_refused(self, tmp_path):
        for level in range(20):
            (tmp_path / f"pool/{level}").mkdir(parents=True)
            for name in ("a", "b"):
                (tmp_path / f"pool/{level}" / name).symlink_to(tmp_path / f"pool/{level + 1}")
        (tmp_path / "pool/20").mkdir()
        with pytest.raises(DataError, match=r"pool/\d+: more than 100 links lead to it"):
            load([tmp_path / "pool/0"])

    def test_a_link_to_nothing_is_an_image_that_can_not_be_read(self, tmp_path):
        data = unpack_clothes(tmp_path / "data", train=40, test=8)
        (data / "train/Bag/x.png").symlink_to("nowhere.png")
        (skipped,) = load([data]).skipped
        assert skipped.startswith("train/Bag/x.png: No such file")

    @pytest.mark.parametrize("kind", ["tar", "tar.gz"])
    def test_links_in_a_tar_are_followed(self, clothes, tmp_path, kind):
        data = shutil.copytree(clothes, tmp_path / "data")
        for name, make in (("soft.png", os.symlink), ("hard.png", os.link)):
            make("0.png" if make is os.symlink else data / "train/Bag/0.png", data / "train/Bag" / name)
        assert load([packed(data, kind, tmp_path)]).hash() == load([data]).hash()

    @pytest.mark.parametrize("kind", ["tar", "zip"])
    def test_a_linked_folder_in_an_archive_is_refused(self, clothes, tmp_path, kind):
        path = tmp_path / f"data.{kind}"
        if kind == "tar":
            with tarfile.open(path, "w") as archive:
                archive.add(clothes, ".")
                link = tarfile.TarInfo("train/Cap")
                link.type, link.linkname = tarfile.SYMTYPE, "Bag"
                archive.addfile(link)
        else:
            with zipfile.ZipFile(packed(clothes, "zip", tmp_path), "a") as archive:
                about = zipfile.ZipInfo("train/Cap")
                about.create_system, about.external_attr = 3, 0o120777 << 16
                archive.writestr(about, "Bag")
        with pytest.raises(DataError, match=r"train/Cap is a link to a folder.*\(tar --dereference"):
            load([path])

    def test_a_pipe_is_not_waited_for(self, tmp_path):
        data = unpack_clothes(tmp_path / "data", train=40, test=8)
        os.mkfifo(data / "train/Bag/x.png")
        os.mkfifo(data / "train/Bag/y")
        (skipped,) = load([data]).skipped
        assert skipped.startswith("train/Bag/x.png: not a regular file")


class TestContent:
    @kinds
    def test_it_decides_where_the_suffix_is_not_known(self, tmp_path, kind):
        folder = tmp_path / "data"
        for suffix, mode, name in (
            ("JPEG", "RGB", "a.jfif"),
            ("PNG", "RGB", "b"),
            ("WEBP", "RGB", "c.dat"),
            ("BMP", "RGB", "d.1"),
            ("GIF", "RGB", "e.download"),
            ("TIFF", "RGB", "f"),
            ("PPM", "RGB", "g.pnm"),
            ("PPM", "1", "h.pbm"),
        ):
            lay(folder, f"cat/{name}", f"owl/{name}", content=written(suffix, mode))
        lay(folder, "cat/README", content=b"P5 is my favourite format. BM is short for bitmap")
        lay(folder, "cat/BMW.txt", "cat/notes.md", content=b"BMW is a make of cars, and this text goes on")
        lay(folder, "cat/raw.nef", content=written("TIFF"))  # a camera's thumbnail, not its photograph
        lay(folder, "cat/empty", content=b"")
        listener = Listener()
        source = packed(folder, kind, tmp_path)
        data = load([source], progress=listener)
        assert len(data.train) + len(data.validation) + len(data.test) == 16
        assert listener.lines[0] == (
            f"left out: {source}: 5 files are no images (no suffix 2, .txt 1, .md 1, .nef 1): "
            "cat/BMW.txt, cat/README, cat/empty, cat/notes.md, cat/raw.nef"
        )

    @kinds
    def test_a_class_without_any_image_is_refused(self, tmp_path, kind):
        lay_splits(tmp_path / "data", "train", "val")
        lay(tmp_path / "data", "val/yak/1.heic", "val/yak/2.HEIC", "val/yak/notes.txt", content=HEIC)
        source = packed(tmp_path / "data", kind, tmp_path)
        with pytest.raises(
            DataError, match=r"class folder val/yak/ has no image .* only \.heic 2, \.txt 1; save them as JPEG or PNG"
        ):
            load([source])
        with pytest.raises(DataError, match="class folder val/yak/"):
            load_labelled([source], ("cat", "dog", "yak"), load([tmp_path / "data/train"]).preprocessing.input)

    @kinds
    @pytest.mark.parametrize("wrapper", ["", "photos/"])
    def test_an_empty_class_is_refused(self, tmp_path, kind, wrapper):
        lay(tmp_path / "data", *(f"{wrapper}{name}/{n}.png" for name in ("cat", "dog") for n in range(3)))
        (tmp_path / f"data/{wrapper}owl/.thumbs").mkdir(parents=True)
        with pytest.raises(DataError, match="class folder owl/ is empty"):
            load([packed(tmp_path / "data", kind, tmp_path)])

    def test_a_run_beside_the_classes_is_no_class(self, tmp_path):
        lay(tmp_path, *(f"{name}/{number}.png" for name in ("cat", "dog") for number in range(3)))
        alone = load([tmp_path]).hash()
        lay(tmp_path, "out/run/recipe.toml", "out/run/data.json", "out/run/student/model.safetensors", content=b"x")
        assert load([tmp_path]).hash() == alone

    def test_a_split_of_unreadable_classes_is_refused(self, tmp_path):
        lay_splits(tmp_path, "train")
        lay(tmp_path, "val/cat/0.heic", content=HEIC)
        with pytest.raises(DataError, match="class folder val/cat/ has no image"):
            load([tmp_path])

    @kinds
    def test_other_files_are_counted_wherever_images_are_read(self, tmp_path, kind):
        lay_splits(tmp_path / "data", "train", "test")
        lay(tmp_path / "data", "train/cat/1.heic", "labels.csv", "notes/a.txt", content=HEIC)
        source, input = packed(tmp_path / "data", kind, tmp_path), load([tmp_path / "data"]).preprocessing.input
        for read in (
            lambda it: load([source], progress=it),
            lambda it: load([tmp_path / "data/train"], unlabelled=[source], progress=it),
            lambda it: load_labelled([source], ("cat", "dog"), input, progress=it),
            lambda it: load_sample([source], 4, input, progress=it),
        ):
            listener = Listener()
            read(listener)
            assert any(line.startswith(f"left out: {source}: 3 files are no images (.") for line in listener.lines), (
                listener.lines
            )

    def test_a_source_with_other_files_only_says_which(self, tmp_path):
        lay(tmp_path, "owl/1.heic", content=HEIC)
        with pytest.raises(DataError, match=r"no images in it \(1 file is no image \(\.heic 1\): owl/1\.heic\)"):
            load([tmp_path])

    def test_an_image_that_is_skipped_is_told_wherever_images_are_read(self, tmp_path):
        data = unpack_clothes(tmp_path / "data", train=40, test=40)
        input = load([data]).preprocessing.input
        lay(data, "test/Bag/0.png", content=PNG[:100])
        listener = Listener()
        load_labelled([data], CLASSES, input, progress=listener)
        (line,) = listener.lines
        assert line.startswith("skipped: test/Bag/0.png: not a readable image")


@kinds
def test_junk_is_no_part_of_the_data(clothes, tmp_path, kind):
    data = shutil.copytree(clothes, tmp_path / "data")
    lay(data, *JUNK)
    listener = Listener()
    assert load([packed(data, kind, tmp_path)], progress=listener).hash() == load([clothes]).hash()
    assert [line for line in listener.lines if not line.startswith("size: ")] == []


def test_a_hidden_folder_may_be_named(clothes, tmp_path):
    hidden = shutil.copytree(clothes, tmp_path / ".cache/@eaDir")
    assert load([hidden]).hash() == load([clothes]).hash()


class TestNamesThatAreBytes:
    @pytest.mark.parametrize("kind", ["folder", "tar"])
    def test_images_keep_them(self, clothes, tmp_path, kind):
        data, name = shutil.copytree(clothes, tmp_path / "data"), os.fsdecode(b"train/Bag/caf\xe9.png")
        (data / "train/Bag/0.png").rename(data / name)
        found = load([packed(data, kind, tmp_path)])
        assert name in {*found.train.names, *found.validation.names}
        assert found.hash() != load([clothes]).hash()

    @pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines", b"\x1b[31m"])
    def test_a_class_with_such_a_name_is_refused(self, clothes, tmp_path, name):
        data = shutil.copytree(clothes / "train", tmp_path / "data")
        (data / "Bag").rename(data / os.fsdecode(name))
        with pytest.raises(DataError, match="its name is not UTF-8, or has control characters; rename it") as caught:
            load([data])
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_a_damaged_archive_is_read_in_part_or_refused(clothes, tmp_path, kind):
    draw = np.random.default_rng(0)
    whole = packed(clothes, kind, tmp_path).read_bytes()
    path, outcomes = tmp_path / f"damaged.{kind}", set()
    for _ in range(60):
        content = bytearray(whole)
        for place in draw.integers(len(content) * 7 // 10 if kind == "zip" else 0, len(content), 5):
            content[place] = draw.integers(256)
        path.write_bytes(content[: draw.integers(len(content)) if draw.random() < 0.2 else None])
        try:
            outcomes.add(load([path]).labels)
        except DataError as fault:
            outcomes.add(str(fault))
    assert len(outcomes) > 3
    assert not any("\n" in str(outcome) for outcome in outcomes)


def test_a_zip_with_a_name_that_is_not_utf8_is_refused(clothes, tmp_path):
    path = packed(clothes, "zip", tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train/Bag/ä.png", PNG)
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\xff\xff"))
    with pytest.raises(DataError, match=r"a damaged archive .* create it again"):
        load([path])

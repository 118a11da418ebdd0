"""`eval --wrong` and the misses in `eval --json`: which images were answered wrongly, and what each net says."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import trainer.data
from folders import kinds, packed
from jobs import job_of
from libkd_sdk.wrong import LIST, Miss, Original, check_new, safe, write_wrong
from sdk.errors import UsageError
from trainer.arms import plain_arm
from trainer.data import MemoryImages, Split, load
from trainer.data.named import NAMED, Named
from trainer.errors import DataError
from trainer.evaluate import logits_of
from trainer.pipeline import train_arm
from trainer.run import load_student, load_teacher, open_run

KEYS = ["images", "top1", "nll", "ece", "majority", "answered", "labels", "confusion", "misses"]


@pytest.fixture
def mislabelled(clothes, tmp_path) -> Path:
    """A folder of images, each in the folder of another class."""
    folder = tmp_path / "mislabelled"
    for label, other in (("Bag", "Trouser"), ("Sneaker", "Bag"), ("Trouser", "Sneaker")):
        shutil.copytree(clothes / "test" / other, folder / label)
    return folder


def listed(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / LIST).read_text().splitlines()]


@kinds
@pytest.mark.slow
def test_every_mistake_is_copied_as_it_is_and_listed(bundle, mislabelled, kind, tmp_path, shell):
    data, out = packed(mislabelled, kind, tmp_path), tmp_path / "deep" / "wrong"
    done = shell.run("eval", bundle, "--data", data, "--wrong", out, "--json")
    assert done.code == 0, done.err
    found, rows = json.loads(done.out), listed(out)
    assert list(found) == KEYS
    assert len(rows) == len(found["misses"]) == round(found["images"] * (1 - found["top1"])) > 12
    assert f"{out}: images that were answered wrongly: {len(rows)}; {LIST} says" in done.err
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    for number, (row, miss) in enumerate(zip(rows, found["misses"], strict=True), 1):
        assert list(miss) == ["image", "label", "answer", "score"]
        assert list(row) == ["file", *miss, "nets"]
        assert {key: row[key] for key in miss} == miss
        assert row["nets"] == {"bundle": {"answer": miss["answer"], "score": miss["score"]}}
        label, name = row["file"].split("/")
        assert label == miss["label"] == Path(miss["image"]).parent.name != miss["answer"]
        assert name == f"{number:02} as {miss['answer']} {miss['score']:.0%} {Path(miss['image']).name}"
        assert (out / row["file"]).read_bytes() == (mislabelled / miss["image"]).read_bytes()
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files == {LIST, *(row["file"] for row in rows)}
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.slow
def test_of_a_run_every_net_says_what_it_sees(distilled, clothes, mislabelled, tmp_path, shell):
    copy = Path(shutil.copytree(distilled, tmp_path / "run"))
    run, data = open_run(copy), load([clothes])
    train_arm(job_of(run, data), plain_arm(run.recipe))
    out = tmp_path / "wrong"
    found = json.loads(shell.succeeded("eval", copy, "--data", mislabelled, "--wrong", out, "--json"))
    rows, split = listed(out), load([mislabelled]).students
    split = trainer.data.load_labelled([mislabelled], found["labels"], data.preprocessing.input)
    student, _, preprocessing = load_student(copy)
    plain, teachers = (
        load_student(copy, "arms/plain")[0],
        {name: load_teacher(run, name) for name in run.recipe.teachers},
    )
    logits = {
        "student": logits_of(student, split, preprocessing),
        "student without teachers": logits_of(plain, split, preprocessing),
        **{f"teacher {name}": logits_of(it.net, split, it.preprocessing) for name, it in teachers.items()},
    }
    assert rows
    for row in rows:
        index = split.names.index(row["image"])
        assert list(row["nets"]) == ["teacher conv", "teacher involution", "student", "student without teachers"]
        assert row["nets"]["student"] == {"answer": row["answer"], "score": row["score"]}
        for net, said in row["nets"].items():
            score, answer = logits[net][index].softmax(-1).max(-1)
            assert said["answer"] == found["labels"][answer]
            assert said["score"] == pytest.approx(score.item(), abs=1e-5)


@pytest.mark.slow
def test_a_run_lists_its_own_test_images(distilled, clothes, tmp_path, shell):
    out = tmp_path / "wrong"
    found = json.loads(shell.succeeded("eval", distilled, "--wrong", out, "--json"))
    assert [row["image"] for row in listed(out)] == [miss["image"] for miss in found["misses"]]
    for row in listed(out):
        assert (out / row["file"]).read_bytes() == (clothes / row["image"]).read_bytes()
        assert row["nets"].keys() == {"teacher conv", "teacher involution", "student"}
    same = json.loads(shell.succeeded("eval", distilled, "--json"))
    assert same == found


@pytest.mark.slow
def test_without_a_file_the_pixels_are_written(bundle, tmp_path, shell, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 28, 28, 3), np.uint8)
    names = [f"test/{number:05d}" for number in range(9)]
    test = Split(MemoryImages(torch.from_numpy(pixels)), torch.arange(9) % 3, torch.arange(9), names)
    labels = ("Bag", "Sneaker", "Trouser")
    monkeypatch.setitem(NAMED, "noise", lambda root: Named(test, test, labels))
    shell.succeeded("eval", bundle, "--data", "noise", "--wrong", tmp_path / "wrong")
    rows = listed(tmp_path / "wrong")
    assert rows
    for row in rows:
        assert row["file"].endswith(f"{row['image'][5:]}.png")
        with Image.open(tmp_path / "wrong" / row["file"]) as image:
            assert np.array_equal(np.array(image), pixels[int(row["image"][5:])])


@pytest.mark.slow
def test_names_are_made_safe_and_stay_apart(bundle, clothes, tmp_path, shell):
    names = [
        "a<b>:c?.png",
        "x" * 200 + ".jpeg",
        "CON.png",
        "no suffix",
        "dots...",
        os.fsdecode(b"caf\xe9.png"),
        "布.png",
    ]
    for label in ("Bag", "Sneaker"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number, name in enumerate(names):
            shutil.copy(clothes / f"test/Trouser/{number}.png", tmp_path / "data" / label / name)
    out = tmp_path / "wrong"
    found = json.loads(shell.succeeded("eval", bundle, "--data", tmp_path / "data", "--wrong", out, "--json"))
    rows = listed(out)
    assert len({row["file"].lower() for row in rows}) == len(rows) == len(found["misses"]) > 7
    for row in rows:
        name = row["file"].split("/")[1]
        assert not re.search(r'[<>:"|?*\\\x00-\x1f]', name)
        assert len(name.encode()) < 200
        assert not name.endswith((".", " "))
        assert (out / row["file"]).read_bytes() == (tmp_path / "data" / row["image"]).read_bytes()


@pytest.mark.slow
def test_a_folder_that_holds_something_is_refused_before_anything_is_read(distilled, tmp_path, shell):
    full, file, empty = tmp_path / "full", tmp_path / "file", tmp_path / "empty"
    (full / "mine").mkdir(parents=True)
    file.touch()
    empty.mkdir()
    done = shell.run("eval", distilled, "--wrong", full)
    line = f"libkd-sdk: --wrong {full}: holds mine; name a folder that is new or empty [usage]\n"
    assert (done.code, done.out, done.err) == (2, "", line)
    assert "not a folder; name one that is new or empty" in shell.refused("eval", distilled, "--wrong", file)
    shell.succeeded("eval", distilled, "--wrong", empty)
    assert (empty / LIST).exists()


@pytest.mark.slow
def test_the_folder_is_written_whole_or_not_at_all(bundle, mislabelled, tmp_path, shell, monkeypatch):
    untouched, calls = trainer.data.content_of, []

    def removed(file):
        calls.append(file)
        if len(calls) == 3:
            raise DataError(f"{file.name}: no such file; check or remove the file")
        return untouched(file)

    monkeypatch.setattr("trainer.data.content_of", removed)
    done = shell.run("eval", bundle, "--data", mislabelled, "--wrong", tmp_path / "new" / "wrong")
    assert done.code == 2
    assert done.err.endswith("no such file; check or remove the file [data-unusable]\n")
    assert sorted(tmp_path.iterdir()) == [mislabelled]


def test_labels_that_look_alike_get_folders_of_their_own(tmp_path):
    labels = ["a/b", "a:b", "A?B", LIST, "", "..", "nul", "x" * 500]
    misses = [Miss("1.png", label, "other", 0.5) for label in labels]
    write_wrong(tmp_path / "wrong", misses, {}, [Original("1.png", lambda: b"1")] * len(misses))
    folders = {row["label"]: row["file"].split("/")[0] for row in listed(tmp_path / "wrong")}
    assert len({name.casefold() for name in folders.values()} | {LIST}) == len(labels) + 1
    assert [folders[name] for name in ("A?B", "a/b", "a:b")] == ["A_B", "a_b 2", "a_b 3"]
    assert folders["nul"] == "_nul"
    with pytest.raises(UsageError, match="holds"):
        check_new(tmp_path / "wrong")


def test_no_mistakes_make_an_empty_list(tmp_path):
    write_wrong(tmp_path / "wrong", [], {}, [])
    assert [(path.name, path.read_text()) for path in (tmp_path / "wrong").iterdir()] == [(LIST, "")]


@given(st.text(st.characters(), max_size=60), st.integers(8, 40))
def test_a_safe_name_is_one_everywhere(text, most):
    name = safe(text, most)
    assert name == name.strip()
    assert 0 < len(name.encode()) <= most + 1
    assert not re.search(r'[<>:"/\\|?*\x00-\x1f\x7f]', name)
    assert not name.endswith(".")
    assert not name.startswith(".")
    assert not re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name)

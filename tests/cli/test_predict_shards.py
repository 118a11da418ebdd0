"""`predict --out`: a file of JSON lines for each shard, in parts, over again after a kill, whatever a tar is like."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import libkd_sdk.shards.plan as planning
from damaged_tars import damaged
from folders import PNG, lay, tar, written
from shell import LIBKD, libkd

BUNDLES = Path(__file__).parents[2] / "spec/vectors/bundles"
BUNDLE = BUNDLES / "onnx-fp32"
JPEG = written("JPEG")


def samples(count: int) -> dict[str, bytes]:
    """Return the members of a shard of webdataset: an image, its class, and what is known of it."""
    names = {"jpg": JPEG, "cls": b"3", "json": b'{"label": 3}'}
    return {f"{key:06}.{kind}": content for key in range(count) for kind, content in names.items()}


def rows(out: Path, pattern: str = "*.jsonl") -> list[dict[str, Any]]:
    return [
        json.loads(line) for file in sorted(out.glob(pattern)) for line in file.read_text(encoding="utf-8").splitlines()
    ]


def names(out: Path, pattern: str = "*.jsonl") -> list[str]:
    return [row["source"] for row in rows(out, pattern)]


def left(out: Path) -> list[str]:
    """Return what a folder holds besides answers."""
    return sorted(entry.name for entry in out.iterdir() if entry.suffix != ".jsonl")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty current folder, and shards of four images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(planning, "SHARD_IMAGES", 4)
    return tmp_path


@pytest.fixture
def summary(shell) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Runs `predict --out out`, and gives the exit code and the summary."""

    def run(*arguments: object, out: object = "out") -> tuple[int, dict[str, Any]]:
        done = shell.run("predict", BUNDLE, *arguments, "--out", out, "--json")
        return done.code, json.loads(done.out)

    return run


def test_the_lines_are_those_of_json(here, summary, shell):
    lay(here / "images", "b.png", "a/2.png", "a/10.png", "c.PNG", "d", "no.txt/.hidden.png")
    (here / "images/cafe\udce9\n.png").write_bytes(PNG[:60])
    (here / "images/notes.txt").write_text("no image")
    code, result = summary("images")
    assert code == 2
    printed = shell.run("predict", BUNDLE, "images", "--json")
    expected = [json.loads(line) for line in printed.out.splitlines()]
    assert sorted(rows(here / "out"), key=str) == sorted(expected, key=str)
    assert [len(file.read_text().splitlines()) for file in sorted((here / "out").glob("*.jsonl"))] == [4, 2]
    assert names(here / "out") == sorted(names(here / "out"))
    assert result.pop("seconds") > 0
    counts = {"shards": 2, "done": 2, "skipped": 0, "damaged": 0, "images": 6, "errors": 1, "earlier_errors": 0}
    assert result == {"out": "out", "part": "1/1", **counts}
    assert left(here / "out") == ["images.txt", "plan.json"]


def test_the_images_of_tars_are_predicted_and_what_lies_beside_them_is_left_out(here, summary):
    tar(here / "shards/train-0.tar", samples(3))
    tar(here / "shards/train-1.tar.gz", {"./cat/0.jpg": JPEG, "cat/._0.jpg": b"junk", "raw": PNG}, "w:gz")
    tar(here / "shards/train-2.tar", {})
    assert summary(*sorted(Path("shards").iterdir()))[0] == 0
    assert names(here / "out", "00000.jsonl") == [f"train-0.tar/{key:06}.jpg" for key in range(3)]
    assert names(here / "out", "00001.jsonl") == ["train-1.tar.gz/cat/0.jpg", "train-1.tar.gz/raw"]
    assert (here / "out/00002.jsonl").read_bytes() == b""
    by_name = {row["source"]: row["label"] for row in rows(here / "out")}
    assert by_name["train-0.tar/000000.jpg"] == by_name["train-1.tar.gz/cat/0.jpg"]


def test_a_link_in_a_tar_is_an_image_that_cannot_be_read(here, summary):
    with tarfile.open("links.tar", "w") as archive:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE), ("folder", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "c.png"
            archive.addfile(member)
    assert summary("links.tar")[1]["errors"] == 2
    assert all("pack the file itself" in row["error"] for row in rows(here / "out"))


def test_parts_share_the_shards_and_write_each_line_once(here, summary, shell):
    lay(here / "images", *(f"{number}.png" for number in range(18)))
    tar(here / "one.tar", samples(2))
    for part, shards in (("3/4", 1), ("1/4", 2), ("4/4", 1), ("2/4", 2), ("4/4", 1), ("8/9", 0)):
        code, result = summary("images", "one.tar", "--part", part)
        assert (code, result["part"], result["shards"]) == (0, part, shards)
    assert sorted(names(here / "out")) == sorted(
        [*(f"images/{number}.png" for number in range(18)), "one.tar/000000.jpg", "one.tar/000001.jpg"]
    )
    done = shell.run("predict", BUNDLE, "images", "one.tar", "--out", "out", "--part", "8/9")
    assert "part 8/9 is empty: there are 6 shards in all" in done.err


def test_the_next_run_does_what_is_missing_and_remembers_what_could_not_be_read(here, summary, shell):
    lay(here / "images", *(f"{number}.png" for number in range(12)))
    (here / "images/0.png").write_bytes(PNG[:50])
    assert summary("images", "--part", "1/3")[0] == 2
    kept = (here / "out/00000.jsonl").stat()
    code, result = summary("images")
    assert (code, result["done"], result["skipped"], result["images"]) == (2, 2, 1, 8)
    assert (result["errors"], result["earlier_errors"]) == (0, 1)
    assert (here / "out/00000.jsonl").stat().st_mtime_ns == kept.st_mtime_ns
    assert summary("images", "--part", "2/3")[0] == 0, "the unreadable image is in another part"
    done = shell.run("predict", BUNDLE, "images", "--out", "out")
    assert (done.code, len(names(here / "out"))) == (2, 12)
    assert "out: 3 of 3 shards were done before" in done.err
    assert "0 done now, 3 before" in done.out
    assert shell.run("predict", BUNDLE, "images", "--out", "out", "--part", "2/3", "-q").err == ""


def test_images_are_called_the_same_wherever_they_lie(here, summary, monkeypatch):
    for place in ("one", "other/mount"):
        lay(here / place / "data/images", *(f"{number}.png" for number in range(6)))
        tar(here / place / "data/deep/a.tar", samples(1))
    summary(here / "one/data/deep/a.tar", here / "one/data/images", "--part", "1/3")
    monkeypatch.chdir(here / "other/mount/data")
    code, result = summary("images", "./../data/deep/a.tar", "--part", "2/3", out=here / "out")
    summary("images", "deep/a.tar", "--part", "3/3", out=here / "out")
    assert (code, result["done"]) == (0, 1)
    assert names(here / "out") == ["deep/a.tar/000000.jpg", *(f"images/{number}.png" for number in range(6))]


def test_names_that_are_not_utf8_are_kept(here, summary):
    folder = os.fsdecode(b"caf\xe9")
    lay(here / folder, os.fsdecode(b"\xff.png"), "two\nlines.png")
    tar(here / os.fsdecode(b"\xfe.tar"), {os.fsdecode(b"\xfd.png"): PNG})
    for _ in range(2):
        assert summary(folder, os.fsdecode(b"\xfe.tar"))[0] == 0
    assert {os.fsencode(name) for name in names(here / "out")} == {
        *(b"caf\xe9/\xff.png", b"caf\xe9/two\nlines.png", b"\xfe.tar/\xfd.png")
    }


def test_what_the_folder_was_made_for_stays(here, summary, shell):
    lay(here / "images", "0.png")
    lay(here / "others", "0.png")
    summary("images")
    before = sorted((here / "out").iterdir())
    for arguments, difference in (
        ((BUNDLE, "images", "--top-k", 2), "with --top-k 3"),
        ((BUNDLE, "images", "--threshold", 0.5), "with --threshold 0"),
        ((BUNDLE, "others"), "from other sources (images/)"),
        ((BUNDLE, "images", "others"), "from other sources (images/)"),
        ((BUNDLES / "onnx-int8", "images"), "with another bundle"),
    ):
        line = shell.run("predict", *arguments, "--out", "out", "-q").err
        assert (
            line == f"libkd-sdk: out: was made {difference}; name another folder by --out, or remove this one [usage]\n"
        )
    (here / "images/1.png").write_bytes(PNG)  # it was listed without this one
    assert summary("images")[1]["skipped"] == 1
    assert sorted((here / "out").iterdir()) == before
    (here / "out/images.txt").write_bytes(b"")
    assert "images.txt: not the list" in shell.refused("predict", BUNDLE, "images", "--out", "out")
    (here / "out/plan.json").write_text("{}")
    assert "out/plan.json: not understood" in shell.refused("predict", BUNDLE, "images", "--out", "out")
    (here / "out/plan.json").unlink()
    assert "out: holds 00000.jsonl, and no plan.json" in shell.refused("predict", BUNDLE, "images", "--out", "out")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("images", "--part", "5/4", "--out", "out"), "there is no part 5 of 4"),
        (("images", "--part", "1/4"), "--part goes with --out"),
        (("camera:0", "--out", "out"), "camera:0: with --out, only folders of images and tars are predicted"),
        (("images", "clip.mp4", "--out", "out"), "clip.mp4: with --out"),
        (("-", "--out", "out"), "-: with --out"),
        (("s3://bucket/0.tar", "--out", "out"), "nothing is fetched"),
        (("images/0.png", "--out", "out"), "images/0.png: neither a folder of images nor a tar"),
        (("nowhere.tar", "--out", "out"), "nowhere.tar: no folder or tar that can be read (No such file or directory)"),
        (("x" * 300, "--out", "out"), "File name too long"),
        (("images", "images/../images", "--out", "out"), "named twice"),
        (("images/sub", "images", "--out", "out"), "images, which is named too"),
        (("texts", "--out", "out"), "texts: no images in this folder (1 file is no image: 0.txt)"),
        (("tars", "--out", "out"), "no images in this folder (1 file is no image: 0.tar); name the tars themselves"),
        (("images", "--top-k", "0", "--out", "out"), "top_k=0: at least 1"),
        (("images", "--out", "images/0.png"), "images/0.png"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_written(here, shell, arguments, reason):
    lay(here, "images/0.png", "images/sub/0.png")
    lay(here, "texts/0.txt", "tars/0.tar", content=b"text")
    assert reason in shell.refused("predict", BUNDLE, *arguments)
    assert sorted(entry.name for entry in here.iterdir()) == ["images", "tars", "texts"]


def test_a_damaged_shard_is_answered_in_part_does_not_stop_others_and_is_tried_again(here, summary, shell):
    for name, content in (("a", b"no tar"), ("b", damaged("cut in an image")), ("c", damaged("not at all"))):
        (here / f"{name}.tar").write_bytes(content)
    tars = ["a.tar", "b.tar", "c.tar"]
    done = shell.run("predict", BUNDLE, *tars, "--out", "out")
    assert done.code == 2
    assert [line for line in done.err.splitlines() if line.startswith("libkd-sdk: ")] == [
        "libkd-sdk: a.tar: damaged or cut off at its beginning (no header of a tar); copy or create this tar again "
        "[image-unreadable]",
        "libkd-sdk: b.tar: damaged or cut off in 3.png (unexpected end of data); copy or create this tar again "
        "[image-unreadable]",
    ]
    assert names(here / "out") == [f"c.tar/{number}.png" for number in range(5)]
    assert names(here / "out", "*.damaged") == ["a.tar", *(f"b.tar/{number}.png" for number in range(3)), "b.tar"]
    assert rows(here / "out", "*.damaged")[-1] == {
        "source": "b.tar",
        "error": "b.tar: damaged or cut off in 3.png (unexpected end of data); copy or create this tar again",
        "code": "image-unreadable",
    }
    (here / "b.tar").write_bytes(damaged("not at all"))
    code, result = summary(*tars)
    assert (code, result["done"], result["skipped"], result["damaged"], result["errors"]) == (2, 1, 1, 1, 0)
    (here / "a.tar").write_bytes(damaged("not at all"))
    code, result = summary(*tars)
    assert (code, result["done"], result["skipped"], result["damaged"]) == (0, 1, 2, 0)
    assert sorted(names(here / "out")) == sorted(f"{name}/{number}.png" for name in tars for number in range(5))
    assert left(here / "out") == ["plan.json"]


def test_a_tar_that_the_disk_does_not_give_does_not_stop_others(here, summary):
    for name in ("a.tar", "b.tar"):
        tar(here / name, samples(1))
    summary("a.tar", "b.tar", "--part", "3/3")
    (here / "a.tar").unlink()
    (here / "a.tar").symlink_to("/proc/self/mem")  # a file that can be opened, and whose bytes can't be read
    code, result = summary("a.tar", "b.tar")
    assert (code, result["done"], result["damaged"]) == (2, 1, 1)


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_and_the_next_run_completes_its_work(tmp_path):
    expected = list[str]()
    for shard in range(12):
        tar(tmp_path / f"{shard:02}.tar", {f"{number:03}.png": PNG for number in range(100)})
        expected += [f"{shard:02}.tar/{number:03}.png" for number in range(100)]
    out, command = tmp_path / "out", ["predict", BUNDLE, *sorted(tmp_path.glob("*.tar")), "--out", tmp_path / "out"]
    process = subprocess.Popen([LIBKD, *map(str, command), "-q"], stdout=subprocess.DEVNULL)
    while not (out / "00002.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    whole = {file: file.read_bytes() for file in out.glob("*.jsonl")}
    assert 3 <= len(whole) < 12
    assert all(content.count(b"\n") == 100 for content in whole.values())
    assert names(out) == expected[: 100 * len(whole)]
    (out / ".00002.jsonl.0123456789ab").write_bytes(b"as another killed process leaves it")
    again = libkd(*command, "--json")
    result = json.loads(again.stdout)
    assert (again.returncode, result["skipped"], result["done"]) == (0, len(whole), 12 - len(whole))
    assert names(out) == expected
    assert left(out) == ["plan.json"]


@pytest.mark.slow
def test_processes_that_do_the_same_part_at_once_do_no_harm(tmp_path):
    lay(tmp_path / "images", *(f"{number}.png" for number in range(30)))
    tars = [tar(tmp_path / f"{shard}.tar", {f"{number}.png": PNG for number in range(30)}) for shard in range(8)]
    command = ["predict", BUNDLE, tmp_path / "images", *tars, "--out", tmp_path / "out", "-q", "--json"]
    processes = [subprocess.Popen([LIBKD, *map(str, command)], stdout=subprocess.PIPE) for _ in range(3)]
    results = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert all(result["done"] + result["skipped"] == 9 for result in results)
    assert set(Counter(names(tmp_path / "out")).values()) == {1}
    assert len(names(tmp_path / "out")) == 270
    assert left(tmp_path / "out") == ["images.txt", "plan.json"]


def peak(work: Callable[[], object]) -> int:
    """Return the bytes that Python holds at most while it works."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_the_memory_does_not_grow_with_a_tar(here, shell):
    peaks = list[int]()
    shell.succeeded("predict", BUNDLE, tar(here / "warm.tar", samples(1)), "--out", "warm")
    for count in (40, 400):
        path = tar(here / f"{count}.tar", samples(count))
        peaks.append(peak(lambda: shell.succeeded("predict", BUNDLE, path, "--out", path.with_suffix(""))))  # noqa: B023
        assert len(names(path.with_suffix(""))) == count
    assert peaks[1] < peaks[0] + 200_000, "a header takes 1 kB and more, an answer 250 bytes"


def test_names_are_sorted_with_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "SORTED_AT_ONCE", 1000)
    lines = [b"%d\n" % (number * 7919 % 20_000) for number in range(20_000)]
    assert list(planning.sorted_lines(lines, tmp_path)) == sorted(lines)
    assert list(planning.sorted_lines([], tmp_path)) == []
    assert list(tmp_path.iterdir()) == []
    made = peak(lambda: all(planning.sorted_lines((b"%d\n" % number for number in range(20_000, 0, -1)), tmp_path)))
    assert made < 20_000 * 38 / 2, "half of what they take in memory"


def test_an_interrupted_run_says_how_to_continue(here, shell, monkeypatch):
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    lay(here / "images", "0.png")
    monkeypatch.setattr("libkd_sdk.shards.work.json_line", interrupted)
    done = shell.run("predict", BUNDLE, "images", "--out", "out")
    assert done.code == 130
    assert done.err.endswith("interrupted; run the same command again to continue\n")
    assert left(here / "out") == ["images.txt", "plan.json"]

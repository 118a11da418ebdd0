"""`predict` on folders and names as people have them; its output is JSON and text whatever a name holds."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from folders import PNG, lay, written
from shell import libkd, succeeded

pytestmark = pytest.mark.slow

LATIN = os.fsdecode(b"caf\xe9.png")


def sources(lines: str) -> list[str]:
    return [json.loads(line)["source"] for line in lines.split("\n") if line]


def test_junk_in_a_folder_is_no_image_and_other_files_are_counted(bundle, tmp_path, shell):
    lay(tmp_path, "a.png", "sub.png/b.PNG", "c")
    lay(tmp_path, "d.jfif", content=written("JPEG"))
    (tmp_path / "link").symlink_to(tmp_path / "sub.png")
    (tmp_path / "sub.png/loop").symlink_to(tmp_path)
    lay(tmp_path, "._a.png", "@eaDir/a.png", "__MACOSX/a.png", ".thumbs/a.png", "Thumbs.db", "#recycle/a.png")
    lay(tmp_path, "e.heic", "f.txt", content=b"no image that we know")
    done = shell.run("predict", bundle, tmp_path, "--json")
    assert done.code == 0
    expected = ["a.png", "c", "d.jfif", "link/b.PNG", "sub.png/b.PNG"]
    assert sources(done.out) == [str(tmp_path / name) for name in expected]
    assert done.err == f"left out: {tmp_path}: 2 files are no images (.heic 1, .txt 1): e.heic, f.txt\n"


def test_a_file_that_is_named_is_tried_whatever_its_name_is(bundle, tmp_path, shell):
    lay(tmp_path, "._a.png", ".thumbs/Thumbs.db", "f.txt", "f" * 200)
    names = [tmp_path / "._a.png", tmp_path / ".thumbs/Thumbs.db", tmp_path / "f.txt", tmp_path / ("f" * 200)]
    assert sources(shell.succeeded("predict", bundle, *names, "--json")) == [str(name) for name in names]
    lay(tmp_path, ".thumbs/b.png")
    assert sources(shell.succeeded("predict", bundle, tmp_path / ".thumbs", "--json")) == [
        str(tmp_path / ".thumbs/b.png")
    ]


def test_a_folder_without_images_says_what_it_holds(bundle, tmp_path, shell):
    lay(tmp_path, "e.heic", "@eaDir/a.png", content=b"no image that we know")
    line = shell.refused("predict", bundle, tmp_path)
    assert "no images in this folder (1 file is no image (.heic 1): e.heic)" in line


def test_names_that_are_not_utf8_are_predicted_and_json_stays_json(bundle, clothes, tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    shutil.copy(clothes / "test/Bag/0.png", folder / LATIN)
    (folder / os.fsdecode(b"bad\xfe.png")).write_bytes(PNG[:50])
    (folder / "two\u2028lines\x85.png").write_bytes(PNG)
    for source in (folder, folder / LATIN):
        for locale in ("C.UTF-8", "C", "POSIX"):
            process = libkd("predict", bundle, source, "--json", env={"LC_ALL": locale})
            rows = [json.loads(line) for line in process.stdout.decode("utf-8").splitlines()]
            assert len(rows) == (3 if source == folder else 1)
            assert {os.fsencode(row["source"]) for row in rows} >= {os.fsencode(folder / LATIN)}
            assert process.returncode == (2 if source == folder else 0)
    process = libkd("predict", bundle, folder)
    assert process.returncode == 2
    assert "caf\N{REPLACEMENT CHARACTER}.png" in process.stdout.decode("utf-8")
    (line,) = process.stderr.decode("utf-8").splitlines()
    assert "not a readable image" in line
    assert b"Traceback" not in libkd("predict", bundle, folder, env={"PYTHONIOENCODING": "ascii"}).stderr


def test_json_is_ascii_where_the_output_is_not_utf8(bundle, tmp_path):
    lay(tmp_path, "käse.png")
    process = libkd("predict", bundle, tmp_path, "--json", env={"PYTHONIOENCODING": "latin-1"})
    assert process.stdout.isascii()
    assert sources(succeeded(process)) == [str(tmp_path / "käse.png")]


@pytest.mark.parametrize(
    "url", ["http://a.b/c.jpg", "https://a.b/c.mp4", "s3://bucket/c.png", "file:///c.png", "RTSP://a/b"]
)
def test_nothing_is_fetched(bundle, url, shell):
    line = f"libkd-sdk: {url}: nothing is fetched from the network; download it first, and name the file [usage]"
    assert shell.refused("predict", bundle, url) == line
    assert shell.refused("predict", bundle, "image.png", url) == line


def test_a_threshold_that_nothing_reaches_shows_no_score(bundle, clothes, shell):
    image = clothes / "test/Bag/0.png"
    (row,) = (
        line for line in shell.succeeded("predict", bundle, image, "--threshold", 1).splitlines() if "Bag" in line
    )
    assert [cell.strip() for cell in row.strip("│").split("│")] == [str(image), "below", "", ""]
    found = json.loads(shell.succeeded("predict", bundle, image, "--threshold", 1, "--json"))
    assert found == {"source": str(image), "label": None, "score": 0.0, "top": []}
    sure = json.loads(shell.succeeded("predict", bundle, image, "--json"))
    table = shell.succeeded("predict", bundle, image, "--threshold", sure["score"] - 1e-6)
    assert f"{sure['label']} │ {sure['score']:.1%}" in table
    assert "below" not in table


def test_standard_input_is_called_by_its_name(bundle, clothes):
    good, bad = (clothes / "test/Bag/0.png").read_bytes(), b"no image"
    process = libkd("predict", bundle, "-", stdin=good)
    assert "│ standard input │" in succeeded(process)
    process = libkd("predict", bundle, "-", stdin=bad)
    assert process.stderr.startswith(b"libkd-sdk: standard input: not a readable image")
    process = libkd("predict", bundle, "-", "--json", stdin=bad)
    row = json.loads(process.stdout)
    assert row["source"] == "-"  # what the caller named
    assert row["error"].startswith("standard input: not a readable image")
    assert libkd("predict", bundle, "-", stdin=b"").stderr.startswith(b"libkd-sdk: standard input: empty")


def test_an_unreadable_image_is_an_error_also_when_quiet(bundle, tmp_path, shell):
    lay(tmp_path, "a.png", content=PNG[:50])
    done = shell.run("predict", bundle, tmp_path / "a.png", "-q")
    assert done.code == 2
    assert done.err.startswith(f"libkd-sdk: {tmp_path / 'a.png'}: not a readable image")


def test_a_run_of_images_in_such_a_folder_is_exported(distilled, clothes, tmp_path, shell):
    run, images = shutil.copytree(distilled, tmp_path / "run"), tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(clothes, images)
    about = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({**about, "data": [str(images)]}))
    made = json.loads(shell.succeeded("export", run, "--target", "onnx", "--out", tmp_path / "b", "--json"))
    assert made["proof"]["images"] == 24
    assert json.loads(shell.succeeded("info", tmp_path / "b", "--json"))["model"]["trained_on"] == "caf?"

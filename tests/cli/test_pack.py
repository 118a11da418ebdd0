"""`pack`, and the commands that train on what it made."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from safetensors.numpy import load_file


@pytest.fixture(scope="module")
def shards(clothes, made_once):
    """The clothes in shards. Shared: change a copy."""

    def fill(folder):
        command = [
            sys.executable,
            "-m",
            "libkd_sdk",
            "pack",
            "--data",
            clothes,
            "--out",
            folder / "s",
            "--per-shard",
            "25",
        ]
        subprocess.run([*map(str, command), "--quiet"], check=True)

    return made_once("shards", fill) / "s"


def test_it_tells_what_it_packed(clothes, tmp_path, shell):
    out = tmp_path / "shards"
    command = ("pack", "--data", clothes, "--out", out, "--size", 16)
    told = json.loads(shell.succeeded(*command, "--json"))
    assert told["classes"] == 3
    assert {name: split["samples"] for name, split in told["splits"].items()} == {"train": 66, "val": 6, "test": 24}
    sizes = {path.name: path.stat().st_size for path in out.glob("*.tar")}
    assert sum(split["bytes"] for split in told["splits"].values()) == sum(sizes.values())
    again = shell.run(*command)
    assert again.code == 2
    assert again.err.endswith("it is packed already; choose another --out [usage]\n")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--quality", "90"], "--quality goes with --size"),
        (["--size", "4"], "--size"),
        (["--per-shard", "1"], "--per-shard"),
        (["--out", "full"], "full: it holds something else; choose another --out"),
        (["--data", "nowhere"], "nowhere: no such folder or archive"),
    ],
)
def test_bad_input_is_one_line(options, line, clothes, tmp_path, shell, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").touch()
    given = [] if "--data" in options else ["--data", clothes]
    given += [] if "--out" in options else ["--out", "new"]
    done = shell.run("pack", *given, *options)
    assert done.code == 2
    assert line in done.err
    assert done.err.strip().count("\n") == 0
    assert not (tmp_path / "new").exists()


def test_shards_are_not_packed_again(shards, tmp_path, shell):
    done = shell.run("pack", "--data", shards, "--out", tmp_path / "new")
    assert done.code == 2
    assert "in shards already" in done.err


def test_what_a_killed_pack_left_is_replaced(clothes, shards, tmp_path, shell):
    left = tmp_path / "shards"
    left.mkdir()
    (left / "train-000000.tar").write_bytes(b"half a tar")
    (left / ".train-000001.tar.0123456789ab").write_bytes(b"half a tar")
    shell.succeeded("pack", "--data", clothes, "--out", left, "--per-shard", 25)
    assert (left / "train-000000.tar").read_bytes() == (shards / "train-000000.tar").read_bytes()
    assert not list(left.glob(".*"))


@pytest.fixture(scope="module")
def recipe(tiny_recipe_file, tmp_path_factory):
    """The tiny recipe with one teacher and one epoch of each training."""
    text = tiny_recipe_file.read_text().replace("epochs = 10", "epochs = 1").replace("epochs = 4", "epochs = 1")
    start, end = text.index("[teachers.involution]"), text.index("[student]")
    path = tmp_path_factory.mktemp("recipe") / "short.toml"
    path.write_text(text[:start] + text[end:])
    return path


@pytest.fixture(scope="module")
def trained(shards, recipe, made_once):
    """A run on shards. Shared: change a copy."""

    def fill(folder):
        command = ["distill", "--data", shards, "--out", folder / "run", "--recipe", recipe, "--quiet"]
        subprocess.run([sys.executable, "-m", "libkd_sdk", *map(str, command)], check=True)

    return made_once("trained-on-shards", fill) / "run"


@pytest.mark.slow
def test_a_run_on_shards_is_like_any_other(trained, shards, shell):
    about = json.loads((trained / "data.json").read_text())
    assert about["data"] == [str(shards)]
    assert about["images"] == {"train": 66, "validation": 6, "test": 24}
    assert json.loads(shell.succeeded("precompute", "--out", trained, "--check", "--json"))["within"]
    scored = json.loads(shell.succeeded("eval", trained, "--json"))
    assert scored
    shell.succeeded("export", trained, "--target", "onnx", "--precision", "int8", "--max-drop", "1")
    bundle = next((trained / "bundles").iterdir())
    measured = json.loads(shell.succeeded("benchmark", bundle, "--validation", shards, "--json"))
    assert measured


@pytest.mark.slow
def test_mistakes_are_found_in_their_shards(trained, tmp_path, shell):
    shell.succeeded("eval", trained, "--wrong", tmp_path / "wrong")
    assert list((tmp_path / "wrong").rglob("*.png"))


@pytest.mark.slow
def test_a_url_is_trained_on(shards, recipe, tmp_path, shell):
    if shutil.which("curl") is None:
        pytest.skip("needs curl: apt-get install curl")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=shards)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}"
        teach = ("teach", "conv", "--recipe", recipe, "--threads", 1)
        shell.succeeded(*teach, "--data", f"{place}/shards.json", "--out", tmp_path / "url")
        shell.succeeded(*teach, "--data", shards, "--out", tmp_path / "folder")
        lost = shell.run(*teach, "--data", f"{place}/other/shards.json", "--out", tmp_path / "none")
        server.shutdown()
    one, other = (load_file(tmp_path / name / "teachers" / "conv" / "model.safetensors") for name in ("url", "folder"))
    assert all((one[name] == other[name]).all() for name in other)
    assert lost.code == 2
    assert "other/shards.json: a shard that can't be read" in lost.err


def test_a_command_is_not_run_because_a_folder_says_so(trained, tmp_path, shell):
    run = shutil.copytree(trained, tmp_path / "run")
    about = json.loads((run / "data.json").read_text())
    about["data"] = [f"pipe:touch {tmp_path}/owned; cat shards/train-000000.tar"]
    (run / "data.json").write_text(json.dumps(about))
    for command in (["eval", run], ["distill", "--out", run], ["export", run, "--target", "onnx"]):
        done = shell.run(*command)
        assert done.code == 2
        assert "its images come from a command" in done.err
    assert not (tmp_path / "owned").exists()


def test_a_pattern_is_found_again_from_another_folder(shards, recipe, tmp_path, shell, monkeypatch):
    monkeypatch.chdir(shards)
    data = ("--data", "train-{000000..000002}.tar", "--data", "test-000000.tar")
    shell.succeeded("teach", "conv", *data, "--recipe", recipe, "--out", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    shell.succeeded("teach", "conv", "--out", tmp_path / "run")
    changed = shell.run("teach", "conv", "--data", shards, "--out", tmp_path / "run")
    assert changed.code == 2
    assert "belongs to other data" in changed.err


@pytest.mark.parametrize("command", ["distill", "compare"])
def test_a_batch_that_lanes_can_not_share_is_refused_before_anything_is_written(
    command, shards, recipe, tmp_path, shell
):
    done = shell.run(command, "--data", shards, "--recipe", recipe, "--batch", 20, "--out", tmp_path / "run")
    assert done.code == 2
    assert "batch = 20 has no 8 equal lanes of pairs; set training.batch = 16" in done.err
    assert not (tmp_path / "run").exists()

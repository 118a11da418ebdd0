"""`precompute` in parts and from other stores, as machines that share a run use it."""

import json
import os
import shutil
import signal
import subprocess

import pytest

from shell import LIBKD
from trainer.logits import LogitStore

pytestmark = pytest.mark.slow


@pytest.fixture
def copies(distilled, tmp_path):
    """Three copies of a run without its store."""
    left_out = shutil.ignore_patterns("logits", "student", "bundles")
    return [shutil.copytree(distilled, tmp_path / name, ignore=left_out) for name in "abc"]


def units_of(run):
    return {path.name: path.read_bytes() for path in (run / "logits").glob("view-*")}


def told(shell, *arguments):
    return json.loads(shell.succeeded("precompute", *arguments, "--json"))


def test_parts_that_machines_filled_apart_become_one_store(copies, distilled, shell):
    here, one, other = copies
    first = told(shell, "--out", one, "--part", "1/2")
    assert (first["units_computed"], first["units_missing"]) == (1, 1)
    assert "units missing   1 of 2" in shell.succeeded("precompute", "--out", one, "--part", "1/2")
    second = shell.run("precompute", "--out", other, "--part", "2/2")
    assert "1 of 1 units missing in part 2/2" in second.err
    assert "units computed  1\n  units missing   1 of 2" in second.out
    joined = told(shell, "--out", here, "--join", one, "--join", other / "logits")
    assert (joined["units_joined"], joined["units_missing"]) == (2, 0)
    assert units_of(here) == units_of(distilled)
    assert "units joined    0" in shell.succeeded("precompute", "--out", here, "--join", one)
    assert json.loads(shell.succeeded("precompute", "--out", here, "--check", "--json"))["within"]


def test_processes_with_and_without_a_part_fill_one_folder_at_once(copies, distilled):
    run = copies[0]
    commands = [["--part", "2/2"], []]
    started = [
        subprocess.Popen([LIBKD, "precompute", "--out", run, "--json", *options], stdout=subprocess.PIPE)
        for options in commands
    ]
    results = [json.loads(process.communicate()[0]) for process in started]
    assert sum(result["units_computed"] for result in results) >= 2
    assert units_of(run) == units_of(distilled)
    assert min(result["units_missing"] for result in results) == 0


def test_sigterm_ends_the_filling_with_a_word_and_loses_at_most_a_unit(copies, distilled, shell, monkeypatch):
    run, write = copies[0], LogitStore.write

    def write_and_end(store, *unit_and_logits):
        write(store, *unit_and_logits)
        os.kill(os.getpid(), signal.SIGTERM)

    ended = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    try:
        with monkeypatch.context() as patched:
            patched.setattr(LogitStore, "write", write_and_end)
            done = shell.run("precompute", "--out", run)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (done.code, done.out, ended) == (75, "", [])
    assert done.err.splitlines()[-1].endswith("what was finished is kept, and the same command continues [stopped]")
    assert len(units_of(run)) == 1
    assert told(shell, "--out", run)["units_computed"] == 1
    assert units_of(run) == units_of(distilled)


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("5/4", "--part: there is no part 5 of 4; they are numbered from 1 on [usage]"),
        ("0/4", "--part: there is no part 0 of 4"),
        ("1/0", "--part: there is no part 1 of 0"),
        ("2", "--part: '2' is not a part; write it as I/N, such as 1/8"),
        ("", "--part: '' is not a part"),
    ],
)
def test_a_part_that_does_not_exist_is_refused_before_anything_is_loaded(part, line, tmp_path, shell):
    done = shell.run("precompute", "--out", tmp_path / "run", "--data", tmp_path, "--part", part)
    assert done.code == 2
    assert done.err.startswith(f"libkd-sdk: {line}")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--part", "1/2", "--check"], "--part and --check are different jobs; give one of them [usage]"),
        (["--part", "1/2", "--join", "x"], "--part and --join are different jobs"),
        (["--join", "x", "--check"], "--join and --check are different jobs"),
    ],
)
def test_options_that_are_different_jobs_exclude_each_other(options, line, tmp_path, shell):
    assert line in shell.refused("precompute", "--out", tmp_path / "run", *options)


def test_what_can_t_be_joined_is_one_line(copies, distilled, tmp_path, shell):
    run, other, _ = copies
    for name in (tmp_path / "none", other):
        line = shell.refused("precompute", "--out", run, "--join", name)
        assert "no logit store there (store.json is missing); name a run, or the folder of a store [store-" in line
    shutil.copytree(distilled / "logits", other / "logits")
    header = other / "logits" / "store.json"
    header.write_text(header.read_text().replace('"seed": 7', '"seed": 8'))
    line = shell.refused("precompute", "--out", run, "--join", other)
    assert "logits: made with another seed (8, not 7); only stores of copies of one run can be joined [store-" in line
    assert not (run / "logits").exists()
    assert "is the store of this run itself" in shell.refused("precompute", "--out", distilled, "--join", distilled)
    line = shell.refused("precompute", "--out", tmp_path / "x", "--join", distilled)
    assert "x: no run there; `libkd-sdk distill" in line
    assert not (tmp_path / "x").exists()

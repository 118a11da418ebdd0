"""The programs for a GPU, at a small size on the CPU: what they write, and that they continue after an error."""

import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch

from trainer.data import load
from trainer.recipe import read_recipe

PROGRAMS = Path(__file__).resolve().parents[2] / "benchmarks/gpu"


def program(name, *arguments, cwd, **environment):
    command = [sys.executable, PROGRAMS / name, *map(str, arguments)]
    env = {**os.environ, "LIBKD": str(cwd / "scratch"), **environment}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def probed(clothes, tiny_recipe_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probed")
    options = ["--recipe", tiny_recipe_file, "--out", "out", "--deadline", time.time() + 3600]
    return folder, program("probe.py", *options, "--few", 32, "--rounds", 5, clothes, cwd=folder)


@pytest.mark.long
@pytest.mark.slow
def test_a_probe_times_every_part_of_every_stage(probed):
    folder, process = probed
    assert process.returncode == 0, process.stdout + process.stderr
    assert "no faults" in process.stdout
    figures = json.loads((folder / "out/probe.json").read_text())
    for name in ("conv", "involution", "student"):
        for figure in (f"step {name}_ms", f"step {name}_per_s", f"step {name}_share_of_peak", f"checkpoint {name}_ms"):
            assert figures[figure] > 0
        assert figures[f"views {name} 16_ms"] > 0
    assert figures.keys() >= {
        "peak_flops",
        "copy_bytes_per_s",
        "launch_us",
        "fill_per_s",
        "fill_share_of_peak",
        "stored / plain",
        "load_s",
    }
    assert figures["views_apart"] == 0  # the CPU compared with itself
    tables = (folder / "out/profile.txt").read_text()
    assert all(f"===== {name}, three steps" in tables for name in ("views", "conv", "involution", "student"))


@pytest.mark.long
@pytest.mark.slow
def test_a_probe_estimates_what_a_longer_job_has_time_for(probed, tiny_recipe_file):
    folder, _ = probed
    suggestion = (folder / "scratch/suggestion.env").read_text()
    whole = read_recipe(tiny_recipe_file)
    command = ["bash", "-c", f"VIEWS=1\n{suggestion}\necho $TEACHER_EPOCHS $STUDENT_EPOCHS $VIEWS"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert said == [
        "10",
        str(whole.student.training.epochs),
        "1",
    ]  # everything fits; a variable that is set already stays


def imported(name, monkeypatch):
    monkeypatch.syspath_prepend(PROGRAMS)  # where Python looks for modules when it runs the program
    found = importlib.util.spec_from_file_location(name, PROGRAMS / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_an_error_in_one_section_does_not_stop_the_others(clothes, tiny_recipe_file, tmp_path, monkeypatch, capsys):
    probe = imported("probe", monkeypatch)

    def broken(_):
        raise RuntimeError("no such kernel")

    def working(it):
        it.figures["reached"] = 1.0

    shared = probe.Workbench(read_recipe(tiny_recipe_file), load([clothes]), torch.device("cpu"), 5, tmp_path)
    sections = {"broken": broken, "working": working}
    assert probe.run_sections(shared, sections, time.time() + 3600) == ["broken"]
    assert "RuntimeError: no such kernel" in capsys.readouterr().out
    assert json.loads((tmp_path / "probe.json").read_text()) == {"reached": 1.0}
    assert probe.run_sections(shared, sections, deadline=0.0) == []
    assert "broken: left out, no time" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.slow
def test_a_job_keeps_what_is_finished(clothes, tiny_recipe_file, tmp_path):
    options = ["--recipe", tiny_recipe_file, "--seconds", 3600, "--run", "run", "--out", "out", clothes]
    process = program("job.py", *options, cwd=tmp_path, TEACHER_EPOCHS="2", STUDENT_EPOCHS="3", VIEWS="1")
    assert process.returncode == 0, process.stdout + process.stderr
    nets = {"teachers-conv", "teachers-involution", "student", "arms-plain"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{it}.safetensors" for it in nets} | {"run.tar.gz"}
    with tarfile.open(tmp_path / "out/run.tar.gz") as packed:
        figures = json.load(packed.extractfile("figures.json"))["figures"]
        recipe = packed.extractfile("seed-0/recipe.toml").read().decode()
    stages = ["teachers/conv", "teachers/involution", "student", "arms/plain"]
    assert list(figures) == [*stages, "arms/conv-alone", "arms/involution-alone"]
    assert all(0 <= it["results"]["test"]["top1"] <= 1 for it in figures.values())
    assert recipe.count("epochs = 2") == 2
    assert "epochs = 3" in recipe
    assert "count = 1" in recipe


@pytest.mark.slow
def test_a_job_ends_in_time_and_evaluates_what_it_has(clothes, tiny_recipe_file, tmp_path, monkeypatch, capsys):
    job = imported("job", monkeypatch)
    options = ["--recipe", tiny_recipe_file, "--seconds", 10, "--run", tmp_path / "run", "--out", tmp_path, clothes]
    monkeypatch.setattr(sys, "argv", ["job.py", *map(str, options)])
    monkeypatch.setenv("TEACHER_EPOCHS", "1000000")
    monkeypatch.setattr("trainer.loop.LOST_AT_MOST", 0)
    assert job.main() == 0
    told = capsys.readouterr().out
    assert "time is up in training teachers/conv" in told
    assert "UNFINISHED teachers/conv after epoch" in told
    assert (tmp_path / "run.tar.gz").exists()

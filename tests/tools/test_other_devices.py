"""The programs that run the vectors on other devices: what can be checked of them in a moment and without a network."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "spec" / "vectors"
CHECK = ROOT / "tools" / "check_vectors.py"


def lines_of(*words: object) -> list[str]:
    done = subprocess.run([sys.executable, CHECK, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_this_machine_gives_the_vectors_of_a_bundle():
    head, row = lines_of("onnx-fp32")
    engine, precision, golden, difference, same, _ = row.split()
    assert len(head.split()) == 6
    assert (engine, precision, same) == ("onnx", "fp32", "100.0%")
    assert max(float(golden), float(difference)) < 1e-5


@pytest.mark.parametrize("how", [[], ["--bare"]])
def test_another_answer_is_seen(tmp_path, how):
    shutil.copytree(VECTORS, tmp_path / "vectors")
    answers = load_file(VECTORS / "probabilities.safetensors")
    answers["onnx-fp32/grey.png"][:] = answers["onnx-fp32/grey.png"][::-1]
    save_file(answers, tmp_path / "vectors" / "probabilities.safetensors")
    _, row = lines_of("--vectors", tmp_path / "vectors", *how, "onnx-fp32")
    assert float(row.split()[3]) > 0.1
    assert row.split()[4] == "97.5%"


@pytest.fixture
def programs(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    return {name: runpy.run_path(str(ROOT / folder / f"{name}.py")) for folder, name in PROGRAMS}


PROGRAMS = (("tools", "arm"), ("benchmarks", "devices"))


def test_the_wheels_for_aarch64_are_those_of_the_base_install_and_the_engines(programs):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    taken = {re.split("[<>=]", wheel)[0] for wheel in programs["arm"]["WHEELS"]}
    assert taken == {re.split("[<>=]", need)[0] for need in [*project["dependencies"], *extras["openvino"]]}
    assert [programs["arm"]["EXECUTORCH"]] == extras["executorch"]


def test_a_device_on_which_an_engine_ends_is_a_row_too(programs):
    variant = programs["devices"]["Variant"]("an old CPU", ("sh", "-c", "exit 4"))
    (row,) = programs["devices"]["measured"](variant, VECTORS, ["onnx-int8"])
    assert row == ("int8", "vectors", "an old CPU", "ended with 4", "", "")

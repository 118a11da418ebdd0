"""The programs in tools/ that people rely on when they change the project."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

TOOLS = Path(__file__).parents[2] / "tools"
TOOL = TOOLS / "same_weights.py"


def test_the_lowest_versions_name_every_package_of_the_base_install_once():
    project = tomllib.loads((TOOLS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lowest = runpy.run_path(str(TOOLS / "lowest.py"))["lowest"]()
    assert all(re.fullmatch(r"[\w-]+==\d+(\.\d+)*", line) for line in lowest), lowest
    needed = [*project["dependencies"], *project["optional-dependencies"]["sign"]]
    assert [line.split("==")[0] for line in lowest] == [re.split("[<>=]", line)[0] for line in needed]


def test_a_hash_tells_a_single_bit_and_ignores_the_header(tmp_path):
    tensors_hash = runpy.run_path(str(TOOL))["tensors_hash"]
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}
    one, other, changed, renamed = (tmp_path / name for name in ("one", "other", "changed", "renamed"))
    save_file(weights, one)
    save_file(weights, other, metadata={"made": "later"})
    save_file({**weights, "a": weights["a"] + torch.eye(2, 3) * 2**-20}, changed)
    save_file({"a": weights["a"], "c": weights["b"]}, renamed)
    assert one.read_bytes() != other.read_bytes()
    assert tensors_hash(one) == tensors_hash(other)
    assert len({tensors_hash(path) for path in (one, changed, renamed)}) == 3


@pytest.mark.long
@pytest.mark.slow
def test_same_weights_prints_a_hash_for_each_tensor_file_and_nothing_else():
    done = subprocess.run([sys.executable, TOOL], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = dict(line.split() for line in done.stdout.splitlines())
    nets = ("teachers/conv", "teachers/involution", "student", "arms/plain", "arms/conv-alone", "arms/involution-alone")
    assert {f"seed-7/{net}/model.safetensors" for net in nets} <= set(rows)
    assert any(name.startswith("seed-7/logits/") for name in rows)
    assert all(re.fullmatch("[0-9a-f]{16}", value) for value in rows.values())
    assert len(set(rows.values())) == len(rows)


def test_the_vectors_are_made_again(tmp_path):
    runpy.run_path(str(TOOLS / "make_vectors.py"))["main"](tmp_path)
    vectors = TOOLS.parent / "spec" / "vectors"
    named = {file.relative_to(tmp_path) for file in tmp_path.rglob("*")}
    others = {"bundles", "probabilities.safetensors"}  # make_vector_bundles.py trains for minutes
    assert named == {path for file in vectors.rglob("*") if (path := file.relative_to(vectors)).parts[0] not in others}
    made, kept = (load_file(folder / "pixels.safetensors") for folder in (tmp_path, vectors))
    assert made.keys() == kept.keys()
    # Another libjpeg may give other JPEG files.
    assert all(torch.equal(made[name], kept[name]) for name in kept if name.endswith(".png"))

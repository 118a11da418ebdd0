"""`examples/ray_predict.py` gives the answers of `libkd-sdk predict --json`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from folders import PNG, lay
from shell import Shell

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "spec/vectors/bundles/onnx-fp32"


@pytest.mark.slow
def test_two_actors_of_ray_answer_as_the_command_does(tmp_path, capfd):
    pytest.importorskip("ray", reason='needs Ray: pip install "ray[data]"')
    lay(tmp_path / "images", *(f"{number}.png" for number in range(5)), "sub/0.PNG")
    lay(tmp_path / "images", "bad.png", content=PNG[:50])
    command = [sys.executable, ROOT / "examples/ray_predict.py", BUNDLE, "images", "answers.jsonl"]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=300, check=True)
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    printed = Shell(capfd).run("predict", BUNDLE, tmp_path / "images", "--json").out
    expected = [json.loads(line) for line in printed.splitlines()]
    assert len(answers) == 7
    assert sorted(answers, key=str) == sorted(expected, key=str)

"""A new engine is one folder and one line: every command works with the engine in `fake/`.

The engine is added to a copy of `runtimes`, which the commands find first, so that their worker processes see it too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).parent / "fake"

RUN = """
import io, json, sys
from contextlib import redirect_stdout
from libkd_sdk.main import run
printed = []
for command in json.loads(sys.argv[1]):
    with redirect_stdout(io.StringIO()) as output:
        assert run(command) == 0, command
    printed.append(output.getvalue())
print(json.dumps(printed))
"""

DEMO = """
import sys
from pathlib import Path
from libkd_sdk.commands.demo import run_demo, show
out, data, recipe = sys.argv[1:]
show(run_demo(Path(out), data, recipe), Path(out))
"""


class Commands:
    """The command line with a fourth engine."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(ROOT / "runtimes", folder / "runtimes")
        shutil.copytree(FAKE, folder / "runtimes" / "fake")
        engines = folder / "runtimes" / "engines.py"
        before = engines.read_text(encoding="utf-8")
        after = before.replace('    "executorch",\n', '    "executorch",\n    "fake",\n')
        assert after.count("\n") == before.count("\n") + 1
        engines.write_text(after, encoding="utf-8")
        self._folder = folder

    def python(self, code: str, *arguments: object) -> str:
        """Run Python with the fourth engine and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=self._folder,
            env={**os.environ, "PYTHONPATH": str(self._folder)},
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *commands: Sequence[object]) -> list[Any]:
        """Run commands, one after another in one process, and return the JSON that each prints."""
        printed = self.python(RUN, json.dumps([[*map(str, command), "--json"] for command in commands]))
        return [json.loads(output) for output in json.loads(printed)]


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> Commands:
    return Commands(tmp_path_factory.mktemp("four-engines"))


@pytest.mark.long
def test_the_demo_has_a_row_and_a_column_for_it(commands, distilled, clothes, tiny_recipe_file, tmp_path):
    shutil.copytree(distilled, tmp_path / "run", ignore=shutil.ignore_patterns("bundles"))  # what is trained already
    tables = commands.python(DEMO, tmp_path, clothes, tiny_recipe_file)
    assert "fake fp32" in tables
    result = json.loads((tmp_path / "demo.json").read_text(encoding="utf-8"))
    assert list(result["bundles"]) == list(result["predictions"]) == ["onnx", "openvino", "executorch", "fake"]
    assert result["bundles"]["fake"]["proof"]["max_abs_difference"] <= 1e-4


@pytest.mark.slow
def test_every_command_works_with_it(commands, distilled, clothes, tmp_path):
    bundle, page, onnx = tmp_path / "bundle", tmp_path / "speed.html", distilled / "bundles" / "onnx"
    image = clothes / "test" / "Bag" / "0.png"
    measuring = ("--rounds", 1, "--calls", 2, "--report", page, "--validation", clothes)
    made, told, verified, other, own, rows = commands.run(
        ("export", distilled, "--target", "fake", "--out", bundle),
        ("info", bundle),
        ("verify", bundle),
        ("predict", onnx, image),
        ("predict", bundle, image),
        ("benchmark", bundle, onnx, *measuring),
    )
    assert made["proof"]["images"] == 24
    assert told["target"] == "fake"
    assert verified["ok"]
    assert own["label"] == other["label"]
    assert [row["target"] for row in rows] == ["fake", "onnx"]
    assert rows[0]["bare"]["calls"] == 2
    assert rows[0]["top1"] == rows[1]["top1"]
    assert "PyTorch" in page.read_text(encoding="utf-8")


def test_the_manifest_of_an_unknown_engine_is_refused_without_it(tmp_path, own_copy):
    """The other direction: this version, which lacks the engine, says so."""
    import sdk

    folder = own_copy("onnx")
    manifest = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    (folder / "bundle.json").write_text(json.dumps({**manifest, "target": "fake"}), encoding="utf-8")
    with pytest.raises(sdk.BundleError, match="target 'fake' is none of the engines here: onnx, openvino, executorch"):
        sdk.Bundle.open(folder)

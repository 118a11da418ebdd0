"""Commands that take a bundle and are given a run: they find its bundles, and say which one they took."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import trainer.run
from libkd_sdk.run_bundles import ABOUT
from runtimes.engines import RUNNABLE

pytestmark = pytest.mark.slow


@pytest.fixture
def run(bundles, tmp_path) -> Path:
    """A folder that looks like a run from outside, with a bundle for each engine."""
    for target, bundle in bundles.items():
        shutil.copytree(bundle.path, tmp_path / "run" / "bundles" / target)
    (tmp_path / "run" / ABOUT).write_text("{}")
    return tmp_path / "run"


def change(bundle: Path, **values: object) -> None:
    """Change values of a manifest. The bundle can't be loaded any more."""
    manifest = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps({**manifest, **values}))


def test_the_sign_of_a_run_is_the_file_that_every_run_has():
    assert ABOUT == trainer.run.ABOUT


def test_the_only_bundle_of_a_run_is_taken_without_a_word(distilled, bundle, clothes, shell):
    image = clothes / "test/Bag/0.png"
    done = shell.run("predict", distilled, image, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.out == shell.succeeded("predict", bundle, image, "--json")
    assert shell.succeeded("info", distilled, "--json") == shell.succeeded("info", bundle, "--json")
    assert json.loads(shell.succeeded("verify", distilled, "--json"))["bundle"] == str(bundle)


def test_of_several_the_first_engine_is_taken_and_said(run, clothes, shell):
    first = run / "bundles" / next(iter(RUNNABLE))
    for arguments in (("predict", run, clothes / "test/Bag/0.png"), ("info", run), ("verify", run)):
        done = shell.run(*arguments)
        assert (done.code, done.err) == (0, f"{run}: took {first}, one of {len(RUNNABLE)} bundles\n")
    assert shell.run("predict", run, clothes / "test/Bag/0.png", "-q").err == ""


def test_fp32_comes_first_and_the_student_before_its_teachers(run, clothes, shell):
    bundles = run / "bundles"
    (bundles / "onnx").rename(bundles / "z")
    for name, values in (("a", {"precision": "int8"}), ("b", {"precision": "fp16"})):
        change(Path(shutil.copytree(bundles / "z", bundles / name)), **values)
    teacher = Path(shutil.copytree(bundles / "z", bundles / "0"))
    change(teacher, model={**json.loads((teacher / "bundle.json").read_text())["model"], "teachers": []})
    done = shell.run("predict", run, clothes / "test/Bag/0.png")
    assert (done.code, done.err) == (0, f"{run}: took {bundles / 'z'}, one of {len(RUNNABLE) + 3} bundles\n")


def test_an_engine_that_is_not_installed_is_passed_over(run, clothes):
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
absent = set(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, Missing())
from libkd_sdk.main import run
sys.exit(run(sys.argv[1:]))
"""

    def without(absent: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, absent, "predict", run, clothes / "test/Bag/0.png", "--json"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = without("onnxruntime")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"{run}: took {run}/bundles/openvino, one of {len(RUNNABLE)} bundles\n"
    done = without("onnxruntime,openvino,executorch")
    assert done.returncode == 2
    line = "libkd-sdk: ONNX Runtime: onnxruntime is not installed; pip install 'libkd-sdk' [engine-missing]\n"
    assert done.stderr == line


def test_a_run_without_bundles_says_which_command_makes_one(tmp_path, clothes, shell):
    run = tmp_path / "run"
    run.mkdir()
    (run / ABOUT).write_text("{}")
    wanted = f"{run}: this run has no bundle yet; `libkd-sdk export {run} --target onnx` makes one [bundle-invalid]"
    for arguments in (("predict", run, clothes / "test/Bag/0.png"), ("info", run), ("verify", run), ("benchmark", run)):
        assert shell.refused(*arguments) == f"libkd-sdk: {wanted}"


def test_a_damaged_bundle_is_named_and_left_out(run, clothes, shell):
    (run / "bundles" / "onnx" / "bundle.json").write_text("{")
    done = shell.run("predict", run, clothes / "test/Bag/0.png")
    assert done.code == 0
    first, second = done.err.splitlines()
    assert first.startswith(f"left out: {run}/bundles/onnx/bundle.json: not understood")
    assert second == f"{run}: took {run}/bundles/openvino, one of {len(RUNNABLE) - 1} bundles"
    for name in ("openvino", "executorch"):
        shutil.rmtree(run / "bundles" / name)
    assert "not understood" in shell.refused("predict", run, clothes / "test/Bag/0.png")


def test_all_bundles_of_a_run_are_measured(run, shell):
    found = json.loads(shell.succeeded("benchmark", run, "--rounds", 1, "--calls", 1, "--threads", 1, "--json"))
    assert [row["bundle"] for row in found] == [str(run / "bundles" / target) for target in RUNNABLE]

"""Wrong input gets one line with a code, an exit code, and nothing half-written; --help has an example."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import runtimes.errors
import sdk.errors
import trainer.errors
from libkd_sdk.main import COMMANDS, CONTINUED
from libkd_sdk.main import run as run_command
from runtimes.engines import ENGINES
from shell import LIBKD, libkd, succeeded

NAMES = (
    "demo",
    "pack",
    "teach",
    "precompute",
    "distill",
    "compare",
    "plan",
    "eval",
    "export",
    "predict",
    "benchmark",
    "verify",
    "info",
    "web",
    "recipe",
    "keygen",
    "sign",
)


def test_the_commands_are_these():
    assert tuple(COMMANDS) == NAMES


@pytest.mark.parametrize("command", NAMES)
def test_help_has_an_example(command, shell, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = shell.succeeded(command, "--help")
    assert "Usage: libkd-sdk" in text
    assert f"Example: libkd-sdk {command}" in text


def test_help_loads_nothing_heavy():
    """All commands are asked in one process, so that a module is named if any of them loads it."""
    code = (
        "import sys; from libkd_sdk.main import run; [run([name, '--help']) for name in sys.argv[1:]]; "
        "print(sorted({'torch', 'timm', 'onnxruntime', 'openvino', 'executorch', 'matplotlib', 'jinja2'} "
        "& set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code, *NAMES], capture_output=True, check=True)
    *_, last = process.stdout.decode().splitlines()
    assert process.stdout.count(b"Usage: ") == len(NAMES)
    assert last == "[]"


@pytest.mark.parametrize("command", NAMES)
def test_help_says_in_sentences_what_a_command_does(command):
    first, *paragraphs = (COMMANDS[command].__doc__ or "").strip().split("\n\n")
    verb = first.split()[0]
    assert re.fullmatch("[A-Z][a-z]+", verb)
    assert not verb.endswith("s")
    assert all(paragraph.strip().endswith(".") for paragraph in (first, *paragraphs[:-1]))


@pytest.mark.parametrize("command", sorted(CONTINUED))
def test_help_says_how_to_resume(command, shell, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    text = shell.succeeded(command, "--help")
    assert "there is no --resume" in text or "it trains only what is missing" in text


def test_help_fits_its_paragraphs_to_the_terminal(shell, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    lines = [line.strip() for line in shell.succeeded("demo", "--help").splitlines()]
    assert any(line.startswith("The demo trains") and line.endswith("what is missing.") for line in lines)


def test_the_help_of_export_names_every_engine_and_precision(shell, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    text = " ".join(shell.succeeded("export", "--help").split())
    *others, last = (f"{name} ({engine.title})" for name, engine in ENGINES.items())
    assert f"The engine: {', '.join(others)} or {last}." in text
    assert "The precision: fp32, fp16 or int8." in text


@pytest.mark.slow
def test_wrong_input_gets_one_line_and_leaves_nothing(shell, clothes, tiny_recipe_file, tmp_path, distilled):
    fails, run, empty = shell.refused, tmp_path / "run", tmp_path / "empty"
    empty.mkdir()
    assert "no images in it" in fails("distill", "--data", empty, "--out", run)
    assert "no such folder or archive" in fails("distill", "--data", tmp_path / "nowhere", "--out", run)
    assert "name the images by --data" in fails("distill", "--out", run)
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(tiny_recipe_file.read_text() + "\n[student.traning]\nepochs = 3\n")
    assert "[student] has no key 'traning'; did you mean 'training'?" in fails(
        "distill", "--data", clothes, "--out", run, "--recipe", wrong
    )
    assert "no device 'gpu9'" in fails("distill", "--data", clothes, "--out", run, "--device", "gpu9")
    assert "No such option" in fails("distill", "--dta", clothes)
    assert "no run there" in fails("export", run, "--target", "onnx")
    compare = ("compare", "--data", clothes, "--out", run, "--recipe", tiny_recipe_file)
    assert "whole numbers" in fails(*compare, "--seeds", "a")
    assert "names a seed twice" in fails(*compare, "--seeds", "1,1")
    assert "no arms" in fails(*compare, "--arms", empty / "none.toml")
    assert "labels is above 0" in fails(*compare, "--labels", 0)
    assert "name the images by --data" in fails("compare", "--out", run)
    assert "no such folder" in fails("distill", "--data", clothes, "--unlabelled", tmp_path / "no", "--out", run)
    assert "--unlabelled goes with --data" in fails("distill", "--unlabelled", clothes, "--out", distilled)
    imagined = ("plan", "--classes", 2, "--size", 28)
    for number in (0, "abc", 1.5):
        assert f"'--samples': '{number}' is not a number of images" in fails(*imagined, "--samples", number)
    assert "'--nodes'" in fails(*imagined, "--images", "1e3", "--nodes", 0)
    assert "--nodes does not go with --latency-ms" in fails(*imagined, "--latency-ms", 5, "--nodes", 2)
    assert not run.exists()

    other = tmp_path / "other"
    shutil.copytree(clothes, other)
    (other / "train/Bag/0.png").unlink()
    before = sorted(distilled.rglob("*"))
    assert "belongs to other data" in fails("distill", "--data", other, "--out", distilled)
    assert "another recipe (it differs in seed)" in fails("distill", "--out", distilled, "--seed", 8)
    assert "did you mean" in fails("export", distilled, "--target", "onxx")
    assert "is lowered at fp32, fp16, int8" in fails("export", distilled, "--target", "onnx", "--precision", "int3")
    assert "not a bundle" in fails("predict", distilled / "student", clothes / "test/Bag/0.png")
    assert "name some by --data" in fails("eval", distilled / "bundles/onnx")
    assert "no images in this folder" in fails("predict", distilled / "bundles/onnx", empty)
    assert sorted(distilled.rglob("*")) == before


def test_a_line_ends_with_the_code_of_its_error(shell, clothes, tmp_path):
    for code, arguments in {
        "usage": ("distill", "--dta", clothes),
        "data-unusable": ("distill", "--data", tmp_path, "--out", tmp_path / "run"),
        "recipe-invalid": ("distill", "--data", clothes, "--out", tmp_path / "run", "--recipe", "no"),
        "run-unusable": ("export", tmp_path, "--target", "onnx"),
        "bundle-invalid": ("info", tmp_path),
    }.items():
        assert shell.refused(*arguments).endswith(f" [{code}]")
    assert shell.refused("nonsense").endswith(" (see --help) [usage]")
    process = libkd("info", tmp_path)
    assert process.returncode == 2
    assert process.stderr.decode().endswith(" [bundle-invalid]\n")
    assert process.stderr.count(b"\n") == 1


def all_errors() -> list[type[sdk.errors.LibkdError]]:
    found = {
        it
        for module in (runtimes.errors, sdk.errors, trainer.errors)
        for it in vars(module).values()
        if isinstance(it, type) and issubclass(it, sdk.errors.LibkdError)
    }
    return sorted(found, key=lambda error: error.code)


@pytest.mark.parametrize("error", all_errors())
def test_every_error_of_the_tree_is_a_line_with_its_code(error, shell, monkeypatch, tmp_path):
    def breaks(*args, **kwargs):
        raise error("two\nlines")

    monkeypatch.setattr("libkd_sdk.commands.verify.verify_bundle", breaks)
    done = shell.run("verify", tmp_path)
    assert done == (error.exit_code, "", f"libkd-sdk: two lines [{error.code}]\n")


@pytest.mark.slow
def test_a_missing_extra_is_named_with_its_command(bundle, clothes):
    code = """
import sys
from pathlib import Path
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "timm", "openvino", "jinja2", "matplotlib"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from libkd_sdk.main import run
sys.exit(run(sys.argv[1:]))
"""

    def without(*arguments):
        return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, check=False)

    process = without("distill", "--data", clothes)
    assert process.returncode == 2
    assert (
        process.stderr.decode()
        == "libkd-sdk: training: torch is not installed; pip install 'libkd-sdk[train]' [engine-missing]\n"
    )
    image = clothes / "test/Bag/0.png"
    same = libkd("predict", bundle, image, "--json")
    assert json.loads(succeeded(without("predict", bundle, image, "--json"))) == json.loads(succeeded(same))
    assert without("verify", bundle).returncode == 0
    assert without("info", bundle).returncode == 0
    process = without("benchmark", bundle, "--report", bundle / "speed.html")
    assert process.returncode == 2
    assert b"jinja2 is not installed; pip install 'libkd-sdk[train]'" in process.stderr


def test_what_nobody_expected_is_one_line_too(capfd, monkeypatch, tmp_path):
    def breaks(*args, **kwargs):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("libkd_sdk.commands.verify.verify_bundle", breaks)
    assert run_command(["verify", str(tmp_path)]) == 1
    assert "unexpected ZeroDivisionError: division by zero; LIBKD_DEBUG=1 shows where" in capfd.readouterr().err
    monkeypatch.setenv("LIBKD_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run_command(["verify", str(tmp_path)])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no disk that is always full")
def test_a_full_disk_behind_stdout_is_one_line():
    with Path("/dev/full").open("w") as full:
        process = subprocess.run([LIBKD, "--version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr == (
        "libkd-sdk: stdout: can't be read or written (No space left on device); "
        "free some space and run again; what was finished stays [file-unwritable]\n"
    )

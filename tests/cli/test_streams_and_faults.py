"""The command line when its standard streams are closed, full or endless, and when the unexpected happens."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from libkd_sdk.output import show_json
from sdk.errors import UsageError

NO_SPACE = OSError(28, "No space left on device", "/a/run.json")


def libkd(redirection: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line from a shell that redirects its standard streams."""
    command = ["sh", "-c", f'exec "$0" -m libkd_sdk "$@" {redirection}', sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("fault", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (NO_SPACE, 2, "/a/run.json: can't be read or written (No space left on device); free some space and run again"),
        (
            PermissionError(13, "Permission denied", b"/a\xe9"),
            2,
            "can't be read or written (Permission denied); choose",
        ),
        (OSError(24, "Too many open files", "/a"), 2, "/a: can't be read or written (Too many open files); allow this"),
        (MemoryError(), 1, "too little memory (MemoryError)"),
        (RecursionError("maximum recursion depth exceeded"), 1, "unexpected RecursionError: maximum recursion depth"),
        (OSError("no number"), 1, "unexpected OSError: no number"),
    ],
)
def test_what_happens_to_a_command_is_one_line(fault, code, line, shell, monkeypatch, tmp_path):
    def breaks(*args, **kwargs):
        raise fault

    monkeypatch.setattr("libkd_sdk.commands.verify.verify_bundle", breaks)
    done = shell.run("verify", tmp_path)
    assert (done.code, done.out) == (code, "")
    assert line in done.err
    assert done.err.startswith("libkd-sdk: ")
    assert done.err.count("\n") == 1


@pytest.fixture
def ended():
    """The numbers of the signals that would have ended this process."""
    come: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: come.append(number))
    yield come
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("command", "place", "code", "line"),
    [
        ("distill", "distill.deadline_of", 75, "stopped by SIGTERM; what was finished is kept, and the same command"),
        ("verify", "verify.verify_bundle", 1, "unexpected AttributeError"),
    ],
)
def test_sigterm_is_one_line_where_a_command_can_be_continued(
    command, place, code, line, ended, shell, monkeypatch, tmp_path
):
    monkeypatch.setattr(f"libkd_sdk.commands.{place}", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    done = shell.run(command, *["--out"] * (command == "distill"), tmp_path / "run")
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
    assert done.err.startswith(f"libkd-sdk: {line}")
    assert len(ended) == (command == "verify")


def test_sigterm_is_told_although_a_library_makes_another_error_of_it(ended, shell, monkeypatch, tmp_path):
    def interrupted(within):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise ValueError("Invalid affine transformation matrix") from None

    monkeypatch.setattr("libkd_sdk.commands.distill.deadline_of", interrupted)
    done = shell.run("distill", "--out", tmp_path / "run")
    assert (done.code, done.err.count("\n")) == (75, 1)
    assert not ended


def test_sigterm_does_not_interrupt_an_import(ended, shell, monkeypatch, tmp_path):
    module = tmp_path / "heard_while_imported.py"
    module.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nis_whole = True\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    def imports_and_works(within):
        importlib.import_module(module.stem)
        time.sleep(60)

    monkeypatch.setattr("libkd_sdk.commands.distill.deadline_of", imports_and_works)
    done = shell.run("distill", "--out", tmp_path / "run")
    assert done.code == 75
    assert sys.modules.pop(module.stem).is_whole
    assert not ended


@pytest.mark.parametrize("when", ["on its way", "being told"])
def test_an_error_is_told_although_sigterm_comes(when, ended, shell, monkeypatch, tmp_path):
    @contextmanager
    def told(arguments):
        try:
            yield
        except UsageError:
            os.kill(os.getpid(), signal.SIGTERM)
            raise

    if when == "on its way":
        monkeypatch.setattr("libkd_sdk.main._together", told)
    else:
        monkeypatch.setattr("libkd_sdk.main._is_told", lambda: os.kill(os.getpid(), signal.SIGTERM))
    done = shell.run("distill", "--out", tmp_path / "run")
    assert done.code == 2
    assert done.err.endswith("no run there yet; name the images by --data [usage]\n")
    assert not ended


@pytest.mark.slow
class TestStreams:
    @pytest.mark.parametrize("options", [(), ("--json",)])
    def test_output_that_is_closed(self, options, bundles):
        process = libkd(">&-", "info", bundles["onnx"].path, *options)
        assert (process.returncode, process.stdout, process.stderr) == (0, "", "")

    @pytest.mark.parametrize("options", [(), ("--json",)])
    def test_output_that_is_full(self, options, bundles):
        process = libkd(">/dev/full", "info", bundles["onnx"].path, *options)
        assert process.returncode == 2
        assert process.stderr.startswith("libkd-sdk: stdout: can't be read or written (No space left on device)")
        assert process.stderr.count("\n") == 1

    def test_an_error_without_a_place_to_go_is_not_output(self, tmp_path):
        for redirection in ("2>&-", "2>/dev/full"):
            process = libkd(redirection, "info", tmp_path)
            assert (process.returncode, process.stdout, process.stderr) == (2, "", "")

    def test_a_reader_that_has_enough(self, bundles, clothes):
        process = libkd("| head -n 1", "predict", bundles["onnx"].path, *[clothes / "test"] * 40, "--json")
        assert json.loads(process.stdout)["label"]
        assert process.stderr == ""

    def test_input_that_is_closed_or_endless(self, bundles):
        process = libkd("<&-", "predict", bundles["onnx"].path, "-")
        assert process.returncode == 2
        assert process.stderr == "libkd-sdk: standard input is closed; give the path of an image [usage]\n"
        process = libkd("</dev/zero", "predict", bundles["onnx"].path, "-")
        assert process.returncode == 2
        assert "larger than 256 MB" in process.stderr

    def test_the_json_of_an_image_is_its_prediction(self, bundles, clothes):
        from sdk import Classifier

        image = clothes / "test/Bag/0.png"
        process = libkd("", "predict", bundles["onnx"].path, image, "--json")
        with Classifier(bundles["onnx"].path, top_k=3) as classifier:
            assert json.loads(process.stdout) == classifier.predict(image).to_dict()

    def test_a_command_does_not_import_what_lies_in_the_current_folder(self, bundles, tmp_path):
        """`python -m` would, so that a downloaded folder could run code."""
        for name in ("numpy", "sdk", "msgspec", "json"):
            (tmp_path / f"{name}.py").write_text("open('trap', 'w').close()")
        command = [Path(sys.executable).with_name("libkd-sdk"), "benchmark", bundles["onnx"].path, "--json"]
        options = ["--rounds", "1", "--calls", "1"]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
        process = subprocess.run(
            [*command, *options], capture_output=True, cwd=tmp_path, env=environment, timeout=120, check=False
        )
        assert process.returncode == 0, process.stderr.decode()
        assert not (tmp_path / "trap").exists()


def test_json_has_no_nan(capsys):
    show_json({"loss": float("nan"), "list": [float("inf"), 1.5], "name": "ä\udce9"})
    line = capsys.readouterr().out
    assert line == '{"loss": null, "list": [null, 1.5], "name": "ä\\udce9"}\n'

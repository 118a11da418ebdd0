"""A run that one command made and another one exported, shared by the tests of the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shell import Shell, libkd, succeeded


@pytest.fixture
def shell(capfd) -> Shell:
    return Shell(capfd)


@pytest.fixture(scope="session")
def distilled(clothes, tiny_recipe_file, tmp_path_factory) -> Path:
    """Return a run's folder with a bundle for ONNX Runtime. It is shared: change a copy."""
    run = tmp_path_factory.mktemp("cli") / "run"
    process = libkd("distill", "--data", clothes, "--out", run, "--recipe", tiny_recipe_file, "--json")
    stages = json.loads(succeeded(process))["stages"]
    assert list(stages) == ["teachers/conv", "teachers/involution", "student"]
    assert b"Traceback" not in process.stderr
    succeeded(libkd("export", run, "--target", "onnx"))
    return run


@pytest.fixture(scope="session")
def bundle(distilled) -> Path:
    """Return the folder of the run's bundle."""
    return distilled / "bundles" / "onnx"

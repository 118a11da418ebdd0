"""Shared by the tests of the commands: a shell in this process, and the bundle of the shared run."""

from __future__ import annotations

from pathlib import Path

import pytest

from shell import Shell


@pytest.fixture
def shell(capfd) -> Shell:
    return Shell(capfd)


@pytest.fixture(scope="session")
def bundle(distilled) -> Path:
    """Return the folder of the run's bundle."""
    return distilled / "bundles" / "onnx"

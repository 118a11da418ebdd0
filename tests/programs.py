"""Programs that tests run in a process of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler"
)


def run(program: str, *arguments: object, **environment: str) -> str:
    """Return what a program prints in a process of its own, which has to end by itself."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    process = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout

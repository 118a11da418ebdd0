"""The reader in C++, built and run by the commands of its README."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from documents import ROOT, blocks

README = ROOT / "examples" / "cpp" / "README.md"
VECTORS = ROOT / "spec" / "vectors"
IMAGES = sorted((VECTORS / "images").iterdir())

PACKAGES = "apt-get install g++ cmake make libjpeg-dev libpng-dev"
HEADERS = "#include <cstdio>\n#include <jpeglib.h>\n#include <png.h>\n"

Process = subprocess.CompletedProcess[bytes]
Program = Callable[..., Process]


def skip_without_tools() -> None:
    compiler = next(filter(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++")), None)
    if compiler is None or not shutil.which("cmake"):
        pytest.skip(f"needs a C++ compiler and CMake: {PACKAGES}")
    check = [compiler, "-fsyntax-only", "-x", "c++", "-"]
    if subprocess.run(check, input=HEADERS.encode(), capture_output=True, check=False).returncode:
        pytest.skip(f"needs the headers of libjpeg and libpng: {PACKAGES}")


def commands(folder: Path) -> list[list[str]]:
    """Return the commands of the README that build and run the program, in another folder and with this Python."""
    block = next(block for block in blocks(README) if block.mark == "slow: run by tests/examples/test_cpp.py")
    places = (("build/cpp", str(folder)), (".venv/bin/python", sys.executable))
    lines = [functools.reduce(lambda line, place: line.replace(*place), places, line) for line in block.commands]
    return [shlex.split(line) for line in lines]


def build(folder: Path, *settings: str) -> None:
    """Build the program without optimisation, which would take longer than the tests save."""
    configure, make, _ = commands(folder)
    for command in ([*configure, "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=", *settings], make):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def program(folder: Path) -> Program:
    def run(*arguments: object) -> Process:
        command = [str(folder / "libkd"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, check=False, timeout=120)

    return run


def refusal(done: Process) -> tuple[str, str]:
    """Return the message and the code of an error that ended the program; nothing else may have been written."""
    assert done.stdout == b"", done.stdout
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("libkd: "), line
    message, _, code = line.removeprefix("libkd: ").removesuffix("]").rpartition(" [")
    assert done.returncode == (1 if code in ("engine-failed", "proof-failed") else 2)
    return message, code

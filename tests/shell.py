"""Ways to run the command line: in a process of its own, as a user does, or quickly in this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from libkd_sdk.main import run

LIBKD = str(Path(sys.executable).with_name("libkd-sdk"))


Process = subprocess.CompletedProcess[bytes]


def libkd(
    *arguments: object, stdin: bytes | None = None, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Process:
    """Run the installed command in a process of its own; `env` is added to the environment."""
    command, env = [LIBKD, *map(str, arguments)], {**os.environ, **(env or {})}
    return subprocess.run(command, input=stdin, capture_output=True, cwd=cwd, env=env, check=False, timeout=300)


def succeeded(process: Process) -> str:
    """Return what a process wrote on stdout, which has to have worked."""
    assert process.returncode == 0, process.stderr.decode()
    return process.stdout.decode()


class Done(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


class Shell:
    """Runs commands in this process, where torch is loaded already."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def run(self, *arguments: object) -> Done:
        self._capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        return Done(code, *self._capfd.readouterr())

    def succeeded(self, *arguments: object) -> str:
        """Return what a command writes on stdout, which has to work."""
        done = self.run(*arguments)
        assert done.code == 0, done.err
        return done.out

    def refused(self, *arguments: object) -> str:
        """Return the error of a command that the user can fix: one line on stderr, after progress, and no stdout."""
        done = self.run(*arguments)
        assert done.code == 2
        assert done.out == ""
        *progress, line = done.err.splitlines()
        assert line.startswith("libkd-sdk: ")
        assert line.endswith("]")
        assert all(before.startswith(("reading images", "device: ", "size: ")) for before in progress)
        return line

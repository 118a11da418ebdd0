"""Two agents of torchrun, as on two machines, train one run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "two-hosts.sh"


@pytest.mark.slow
def test_two_hosts_train_one_run(clothes, tiny_recipe_file, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--data", clothes, "--out", tmp_path / "run", "--recipe", tiny_recipe_file, "--epochs", "1"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PORT": str(port)}
    done = subprocess.run(
        ["sh", SCRIPT, *map(str, options), "--threads", "1"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("device: cpu, 1 thread, 2 processes") == 1
    assert (tmp_path / "run" / "student" / "model.safetensors").exists()
    assert (tmp_path / "run" / "report.html").exists()

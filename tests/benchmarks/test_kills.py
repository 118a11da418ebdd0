"""A command that is killed at a write, or whose disk is full from there on, continues as if nothing had happened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the program finds out which file is forced to the disk")
def test_nothing_is_lost_by_a_kill_or_a_full_disk():
    command = [sys.executable, str(PROGRAM), "--kills", "3", "--full", "1", "--commands", "distill", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {"kills": 3, "full disks": 1, "lost": 0, "again": 0, "left over": 0, "unclear": 0}

"""A command that is killed at any moment, or whose disk is full, continues as if nothing had happened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def told(program: str, *options: str) -> dict[str, int]:
    command = [sys.executable, str(BENCHMARKS / program), *options, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the program finds out which file is forced to the disk")
def test_nothing_is_lost_by_a_kill_or_a_full_disk():
    found = told("kills.py", "--kills", "3", "--terms", "1", "--full", "1", "--commands", "distill")
    wrong = dict.fromkeys(("lost", "rows", "again", "left over", "unclear"), 0)
    assert found == {"kills": 3, "terms": 1, "full disks": 1, **wrong}


@pytest.mark.long
@pytest.mark.slow
def test_several_processes_that_are_disturbed_in_every_stage_end_with_the_same_weights():
    found = told("kills_together.py", "--rounds", "1", "--ways", "term,kill,one")
    assert found["rounds"] == 1
    assert not any(found[name] for name in ("lost", "rows", "again", "left over", "unclear", "late"))
    assert sum(found.values()) == 1 + 6  # one in each stage

"""Damaged bundles are refused, or answer as before; none crashes or hangs the app."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks/fuzz_bundles.py"


@pytest.mark.long
@pytest.mark.slow
def test_some_of_each_class():
    done = subprocess.run(
        [sys.executable, PROGRAM, "--count", "60", "--engines", "onnx", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *rows, total = json.loads(done.stdout)
    assert len(rows) == 10
    assert total["tried"] >= 60
    for row in rows:
        assert row["tried"] == sum(row[name] for name in ("refused", "right", "wrong", "crashed", "hung"))
        assert row["tried"], row
        assert row["crashed"] == row["hung"] == 0, done.stderr
        assert row["wrong"] == 0 or "hashed again" in row["of"], done.stderr

"""The threads of a command: measured, or as the user says, or as the run began."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from msgspec.structs import replace

from jobs import CPU, Told
from runtimes.cores import SPIN_COUNT
from sdk.errors import UsageError
from trainer import threads
from trainer.recipe import Training
from trainer.run import Source
from trainer.start import RunRequest, at_work
from trainer.threads import computing


@pytest.fixture
def two_cores(monkeypatch):
    """A machine of two cores on which one thread is faster."""
    monkeypatch.setattr(threads, "MOST", 2)
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    monkeypatch.setattr(threads, "_seconds", lambda number: 3.0 if number == 2 else 1.0)


def test_a_measurement_decides_and_the_number_is_put_back(two_cores):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with computing(None, CPU) as found:
        assert torch.get_num_threads() == found.number == 1
        assert found.busy
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_a_real_measurement_takes_a_number_that_there_is():
    with computing(None, CPU) as found:
        assert 1 <= found.number == torch.get_num_threads() <= threads.MOST


def test_a_number_that_is_given_is_not_measured(two_cores, monkeypatch):
    monkeypatch.delattr(threads, "_seconds")
    with computing(2, CPU) as found:
        assert torch.get_num_threads() == 2
        assert str(found) == "2 threads"
    with pytest.raises(UsageError, match="threads=0: at least 1"), computing(0, CPU):
        pass


def test_a_run_continues_with_the_threads_that_it_began_with(two_cores, clothes, tiny_recipe, tmp_path):
    short = replace(tiny_recipe.student, training=Training(epochs=1, batch=16))
    request = RunRequest(
        out=tmp_path / "run", source=Source((str(clothes),)), recipe=replace(tiny_recipe, student=short), threads=2
    )
    told = Told()
    with at_work(request, told):
        assert torch.get_num_threads() == 2
    assert told.lines[0] == "device: cpu, 2 threads"
    with at_work(RunRequest(out=request.out), told):
        assert torch.get_num_threads() == 2
    with at_work(RunRequest(out=request.out, threads=1), told):
        assert torch.get_num_threads() == 1
    again = Told()
    with at_work(RunRequest(out=tmp_path / "other", source=request.source, recipe=request.recipe), again):
        assert torch.get_num_threads() == 1
    assert again.lines[0] == ("device: cpu, 1 thread: the machine is busy, and more threads take 3.0 times as long")


@pytest.mark.skipif(sys.platform != "linux", reason="needs GNU's OpenMP")
@pytest.mark.parametrize(
    "way", ["import trainer.threads", "from libkd_sdk import main; main.run(['recipe']); import torch"]
)
@pytest.mark.parametrize(("chosen", "counts"), [({}, True), ({"OMP_WAIT_POLICY": "active"}, False)])
def test_threads_that_wait_spin_only_briefly(way, chosen, counts):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    environment = {**kept, **chosen, "OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run([sys.executable, "-c", way], env=environment, capture_output=True, text=True, check=True)
    assert "GOMP_SPINCOUNT = " in done.stderr
    assert (f"GOMP_SPINCOUNT = '{SPIN_COUNT}'" in done.stderr) == counts

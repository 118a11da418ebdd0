"""The memory of freed tensors is kept for the next step, and returned when the training ends."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")

STEPS = """
import resource
import trainer
import torch
from trainer.memory import keeping_freed_memory

def pages(steps=10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        torch.ones(2**24)  # 64 MiB
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / steps

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

usual = pages()
with keeping_freed_memory():
    pages(20)  # until the holes between other blocks are large enough
    kept, held = pages(), resident()
print(usual, kept, held - resident())
"""


def measured(**environment: str) -> list[float]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "THP_"))}
    done = subprocess.run(
        [sys.executable, "-c", STEPS], env={**plain, **environment}, capture_output=True, text=True, check=True
    )
    return [float(number) for number in done.stdout.split()]


def test_the_next_step_needs_no_new_pages():
    usual, kept, returned = measured(THP_MEM_ALLOC_ENABLE="0")
    assert usual > 2**14  # 64 MiB are 16,384 pages of 4 KiB
    assert kept < 10
    assert returned > 60


def test_the_user_s_choice_is_left_alone():
    _, kept, _ = measured(THP_MEM_ALLOC_ENABLE="0", MALLOC_TOP_PAD_="131072")
    assert kept > 2**13


@pytest.mark.skipif(not PAGES.exists() or "[never]" in PAGES.read_text(), reason="the system has no large pages")
def test_large_tensors_get_large_pages():
    usual, _, _ = measured()
    assert usual < 2**12

"""Measure a student's step on several threads that wait as OpenMP does by itself, and as we let them.

    python benchmarks/waiting.py [--threads 2] [--busy 2] [--rounds 3]

The student is that of the recipe `demo`, with a batch of 64. Each process takes steps for some seconds; the processes
take turns, and the median of their medians counts. First the machine has nothing else to do, and then it has `--busy`
other processes that take such steps with one thread.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

STEPS, SECONDS = 5, 8.0
"""The least number of steps that a process takes, and for how long it goes on."""
WAYS = ("OpenMP's", "ours")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--busy", type=int, default=2, help="number of other processes on the busy machine")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(_seconds_of_a_step(arguments.child == "ours", arguments.threads, arguments.seconds))
        return
    for others in (0, arguments.busy):
        busy = [subprocess.Popen(_child("ours", 1, math.inf), env=_environment()) for _ in range(others)]
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(arguments.rounds):
            for way, seconds in found.items():
                seconds.append(_asked(way, arguments.threads))
        for process in busy:
            process.kill()
            process.wait()
        theirs, ours = (statistics.median(found[way]) for way in WAYS)
        print(
            f"{arguments.threads} threads beside {others} processes: {1000 * theirs:.0f} ms as OpenMP waits by itself, "
            f"{1000 * ours:.0f} ms as we let it ({theirs / ours:.2f} times as fast)"
        )


def _asked(way: str, threads: int) -> float:
    child = subprocess.run(_child(way, threads, SECONDS), env=_environment(), capture_output=True, check=True)
    return float(child.stdout)


def _child(way: str, threads: int, seconds: float) -> list[str]:
    return [sys.executable, __file__, "--child", way, "--threads", str(threads), "--seconds", str(seconds)]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    return {**kept, "PYTHONPATH": str(Path(__file__).parents[1])}


def _seconds_of_a_step(ours: bool, threads: int, whole: float) -> float:
    if ours:
        import trainer  # noqa: F401  (it decides how threads wait, before torch is imported)
    import torch

    from trainer.models import Student

    torch.set_num_threads(threads)
    student = Student(classes=10, teachers=2, size=28, patch=8, width=96, depth=4, heads=3)
    optimizer, images = torch.optim.AdamW(student.parameters()), torch.randn(64, 3, 28, 28)
    seconds: list[float] = []
    while len(seconds) < STEPS or sum(seconds) < whole:
        started = time.perf_counter()
        student(images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    main()

"""Measure how much faster several processes train than one, each with one thread.

    python benchmarks/scale.py [--recipe small] [--size 32] [--processes 2] [--steps 40] [--rounds 3] [--json]

The student of a recipe learns from labels, on noise. The numbers are samples per second of whole epochs, and the ratio
is that of medians; one and several processes take turns. Expected on two cores: 1.6 with two processes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from msgspec.structs import replace

from trainer import parallel
from trainer.arms import plain_arm
from trainer.counts import Counts
from trainer.estimate import imagined
from trainer.lessons import LabelLessons
from trainer.metrics import epoch_rows
from trainer.progress import Silent
from trainer.recipe import read_recipe
from trainer.run import Job, Run
from trainer.train import train_student


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40, help="the steps of an epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--into", help="train into this folder, as one of the processes")
    arguments = parser.parse_args()
    if arguments.into:
        train(arguments.recipe, arguments.size, arguments.steps, Path(arguments.into))
        return
    rates: dict[int, list[float]] = {1: [], arguments.processes: []}
    for _ in range(arguments.rounds):
        for count, found in rates.items():
            found.append(rate(count))
    medians = {count: statistics.median(found) for count, found in rates.items()}
    ratio = medians[arguments.processes] / medians[1]
    if arguments.json:
        print(json.dumps({"samples_per_second": medians, "ratio": ratio}))
    else:
        for count, median in medians.items():
            print(f"{count} processes: {median:,.0f} samples per second")
        print(f"ratio: {ratio:.2f}")


def rate(count: int) -> float:
    """Return the samples per second of the second epoch, with that many processes."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(count)]
        command = [sys.executable, *launcher, __file__, *sys.argv[1:], "--into", folder]
        subprocess.run(command, check=True, capture_output=True)
        return epoch_rows(Path(folder))[-1].samples_per_second


def train(name: str, size: int, steps: int, folder: Path) -> None:
    recipe = read_recipe(name)
    training = replace(recipe.student.training, epochs=2, ema=0.9)
    recipe = replace(recipe, student=replace(recipe.student, training=training))
    data = imagined(recipe, Counts.holding_out(steps * training.batch, recipe.data.holdout), classes=10, size=size)
    torch.set_num_threads(1)
    with parallel.joined():
        job = Job(Run(folder, recipe), data, torch.device("cpu"), Silent())
        train_student(job, plain_arm(recipe), LabelLessons())


if __name__ == "__main__":
    main()

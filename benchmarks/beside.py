"""Compare trainings side by side, each with a part of the threads, with the same ones after another with all threads.

    python benchmarks/beside.py [--recipe demo] [--images 12000] [--epochs 2] [--rounds 3] [--threads 2]

In each round both are done once: all teachers of the recipe, then the student with its teachers and without. The times
hold all that belongs to a training, such as starting the processes, and validation. Expected on two cores: less time
side by side, and the less, the longer the trainings are.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from plan import cut

from trainer import beside
from trainer.arms import own_arm, plain_arm
from trainer.counts import Counts
from trainer.estimate import imagined
from trainer.memory import keeping_freed_memory
from trainer.pipeline import fill_store, train_arms, train_teachers
from trainer.progress import Silent
from trainer.recipe import Recipe, read_recipe
from trainer.run import Job, Source, start_run

STAGES = ("teachers", "logit store", "students")
WAYS = {"one after the other": 2**62, "side by side": beside.LEAST_PIXELS}
"""The pixels from which on a stage has a process of its own."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--epochs", type=int, default=2, help="epochs of each net, and views")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = cut(read_recipe(options.recipe), options.epochs)
    rounds = []
    for number in range(options.rounds):
        found = {way: seconds(recipe, options.images, options.size, least) for way, least in WAYS.items()}
        rounds.append(found)
        for way, times in found.items():
            stages = ", ".join(f"{stage} {taken:.1f} s" for stage, taken in zip(STAGES, times, strict=True))
            print(f"round {number + 1}, {way}: {stages}", flush=True)
    one, other = WAYS
    for index, stage in enumerate(STAGES):
        print(f"{stage}: {statistics.median(it[other][index] / it[one][index] for it in rounds):.2f} of the time")
    print(f"together: {statistics.median(sum(it[other]) / sum(it[one]) for it in rounds):.2f} of the time")


def seconds(recipe: Recipe, images: int, size: int, least: int) -> list[float]:
    """Return the seconds for the teachers, the store and the students, if fewer pixels than `least` are too few."""
    beside.LEAST_PIXELS = least
    data = imagined(recipe, Counts.holding_out(images, 0.1), classes=10, size=size)
    with tempfile.TemporaryDirectory() as folder, keeping_freed_memory():
        run = start_run(Path(folder) / "run", recipe, data, Source(("noise",)))
        job, arms = Job(run, data, torch.device("cpu"), Silent()), [own_arm(recipe), plain_arm(recipe)]
        stages = (lambda: train_teachers(job), lambda: fill_store(job, arms[0]), lambda: train_arms(job, arms))
        times = []
        for stage in stages:
            started = time.perf_counter()
            stage()
            times.append(time.perf_counter() - started)
    return times


if __name__ == "__main__":
    main()

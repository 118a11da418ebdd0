"""Compare what `plan` says with what a run takes, stage by stage, on a quiet machine and beside a busy process.

    python benchmarks/plan.py [--recipe demo] [--images 2000] [--classes 10] [--size 28] [--epochs 2] [--busy 1]
    python benchmarks/plan.py --images 5000 --sample 500 --within 25

The recipe is cut to a few epochs and views of noise, so that the run takes a minute and not hours. The plan is made for
the same cut, and the run follows at once. With `--busy N`, N other processes compute without a pause from before the
plan until the run ends. With `--sample N`, the plan knows N of the images and is scaled to all of them, as `plan
--samples` does; the run has all. Expected: every stage within 25 % on a quiet machine, and the sum within 50 % beside
one busy process. A stage of a second or less says little. `--within 25` makes the program fail if the sum is not within
25 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from msgspec.structs import replace

from trainer.arms import own_arm
from trainer.counts import Counts
from trainer.estimate import estimate, imagined
from trainer.pace import Paces
from trainer.pipeline import fill_store, train_arms, train_teachers
from trainer.progress import Silent
from trainer.recipe import Recipe, Training, read_recipe
from trainer.run import Job, Run, Source, start_run
from trainer.threads import computing


class Stage(NamedTuple):
    """The seconds of a stage, as planned and as they were."""

    name: str
    planned: float
    taken: float

    @property
    def ratio(self) -> float:
        return self.planned / self.taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--sample", type=int, help="the number of images that the plan is measured on; all by default")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--epochs", type=int, default=2, help="epochs of each net, and views")
    parser.add_argument("--threads", type=int, help="the default is what a measurement finds to be the fastest")
    parser.add_argument("--busy", type=int, default=0, help="the number of other processes that compute")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long the steps of each net are timed")
    parser.add_argument("--within", type=float, metavar="PERCENT", help="fail if the sum is not within this")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    recipe = cut(read_recipe(options.recipe), options.epochs)
    counts, device, arm = Counts.holding_out(options.images, recipe.data.holdout), torch.device("cpu"), own_arm(recipe)
    data = imagined(recipe, counts, classes=options.classes, size=options.size)
    sample = imagined(
        recipe, counts.grown_to(options.sample or options.images), classes=options.classes, size=options.size
    )
    with busy(options.busy), computing(options.threads, device) as threads, tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        paces = Paces(Job(Run(Path(), recipe), sample, device, Silent()), options.seconds, counts=counts)
        planned = estimate(recipe, [arm], paces)
        planning = time.perf_counter() - started
        run = start_run(Path(folder) / "run", recipe, data, Source(("noise",)))
        job = Job(run, data, device, Silent())
        teachers = planned._replace(store=0.0, students={}).seconds
        stages = [
            Stage("teachers", teachers, seconds(train_teachers, job)),
            Stage("logit store", planned.store, seconds(fill_store, job, arm)),
            Stage("student", planned.students[arm.stage], seconds(train_arms, job, [arm])),
        ]
    together = Stage("together", planned.seconds, sum(stage.taken for stage in stages))
    stages.append(together)
    if options.json:
        print(json.dumps({"threads": threads.number, "plan_s": planning, "stages": [it._asdict() for it in stages]}))
    else:
        print(f"{threads}; the plan took {planning:.1f} s")
        for it in stages:
            print(f"{it.name:<20} planned {it.planned:8.1f} s  taken {it.taken:8.1f} s  ratio {it.ratio:.2f}")
    if options.within and abs(together.ratio - 1) > options.within / 100:
        sys.exit(f"the plan says {together.ratio:.2f} of the time, which is not within {options.within:g} %")


def cut(recipe: Recipe, epochs: int) -> Recipe:
    """Return the recipe with that many epochs of each net, and as many views."""

    def shorter(training: Training) -> Training:
        return replace(training, epochs=epochs)

    return replace(
        recipe,
        teachers={name: replace(it, training=shorter(it.training)) for name, it in recipe.teachers.items()},
        views=replace(recipe.views, count=epochs),
        student=replace(recipe.student, training=shorter(recipe.student.training)),
    )


def seconds(work: Callable[..., object], *arguments: object) -> float:
    """Return how long some work takes."""
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Let that many processes compute without a pause inside the block."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in others:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()

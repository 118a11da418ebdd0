"""The untrained nets and the views of a recipe on a device, and how they are timed: the base of probe.py's sections."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from msgspec.structs import replace
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trainer.arms import own_arm
from trainer.data import Dataset, Preprocessing, Samples, Split, to_input
from trainer.learner import Learner
from trainer.loop import Batch, batches
from trainer.losses import distillation, labels_alone, soft_cross_entropy
from trainer.models import Teacher, create_student, create_teacher
from trainer.recipe import Recipe, Training

START = time.perf_counter()
Step = Callable[[int], object]
"""A piece of work to be timed. The argument counts the calls."""


@dataclass
class Workbench:
    """The things that all sections share.

    Attributes:
        recipe, data, device: what is timed, and where.
        rounds: how often a step is timed.
        out: the folder for the results.
        figures: the results by name.
    """

    recipe: Recipe
    data: Dataset
    device: torch.device
    rounds: int
    out: Path
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def batch(self) -> int:
        return self.recipe.student.training.batch

    @cached_property
    def train(self) -> Split:
        return cast(Split, self.data.train.to(self.device))

    @cached_property
    def shown(self) -> list[Batch]:
        """Two batches of the student's views."""
        rows = batches(self.train, seed=0, view=0, epoch=0, size=self.batch, spec=self.recipe.views.spec)
        return [next(rows) for _ in range(min(2, len(self.train) // self.batch))]

    @cached_property
    def teachers(self) -> dict[str, Teacher]:
        """The recipe's teachers, untrained: what they have learned does not change the time."""
        return {
            name: create_teacher(
                replace(it, pretrained=False, weights=None, training=Training()),
                len(self.data.labels),
                self.data.preprocessing,
            ).to(self.device)
            for name, it in self.recipe.teachers.items()
        }

    def student(self) -> nn.Module:
        return create_student(
            self.recipe.student, len(self.recipe.teachers), len(self.data.labels), self.data.preprocessing
        )

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def milliseconds(self, step: Step, rounds: int | None = None, warm: int = 3) -> float:
        """Return the milliseconds of a step while the device's queue is kept full, as the median of five parts."""
        for number in range(warm):
            step(number)
        part, times = max(1, (rounds or self.rounds) // 5), []
        self.wait()
        for start in range(0, 5 * part, part):
            started = time.perf_counter()
            for number in range(start, start + part):
                step(number)
            self.wait()
            times.append((time.perf_counter() - started) / part)
        return 1000 * statistics.median(times)

    def prepared(self, number: int, preprocessing: Preprocessing) -> tuple[Batch, Tensor, Tensor]:
        one = self.shown[number % len(self.shown)]
        targets = one.view.targets(self.train.labels[one.rows.indices], len(self.data.labels), 0.1)
        return one, to_input(one.view.pixels, preprocessing), targets

    def teacher_step(self, name: str, compiled: bool) -> tuple[Step, Learner]:
        teacher, training = self.teachers[name], replace(self.recipe.teachers[name].training, compile=compiled)
        learner = Learner(teacher.net, training, 1000, self.device)

        def step(number: int) -> None:
            _, inputs, targets = self.prepared(number, teacher.preprocessing)
            learner.step(number, inputs, lambda output: soft_cross_entropy(output, targets))

        return step, learner

    def student_step(self, compiled: bool, taught: bool = True) -> tuple[Step, Learner]:
        arm = own_arm(self.recipe)
        learner = Learner(self.student(), replace(self.recipe.student.training, compile=compiled), 1000, self.device)
        size = (len(self.train), len(self.recipe.teachers), len(self.data.labels))
        kept, teaching = torch.randn(size, device=self.device).half(), arm.teaching()

        def step(number: int) -> None:
            one, inputs, targets = self.prepared(number, self.data.preprocessing)

            def loss_of(output: Tensor) -> Tensor:
                if not taught:
                    return _sum(labels_alone(output, targets))
                return _sum(distillation(output, targets, kept[one.rows.places].float(), teaching))

            learner.step(number, inputs, loss_of)

        return step, learner

    def as_in_the_recipe(self) -> dict[str, tuple[Step, Learner]]:
        found = {name: self.teacher_step(name, it.training.compile) for name, it in self.recipe.teachers.items()}
        return {**found, "student": self.student_step(self.recipe.student.training.compile)}

    def operations(self, net: nn.Module, preprocessing: Preprocessing, backward: bool = True) -> float:
        """Return the floating-point operations for one image, in matrix products and convolutions."""
        images = 2
        inputs = to_input(self.shown[0].view.pixels[:images], preprocessing)
        with FlopCounterMode(display=False) as counter:
            answers = net.to(self.device).train()(inputs)
            if backward:
                answers.sum().backward()
        return counter.get_total_flops() / images

    def note(self, name: str, step: Step, images: int, operations: float = 0.0, rounds: int | None = None) -> None:
        """Time a step. Print and keep the result: images per second, memory, and the share of the measured peak."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        step(0)
        self.wait()
        first, ms = time.perf_counter() - started, self.milliseconds(step, rounds)
        self.figures[f"{name}_ms"] = ms
        self.figures[f"{name}_per_s"] = 1000 * images / ms
        text = f"   {name}: first {first:.1f} s, then {ms:.2f} ms for {images}, {1000 * images / ms:,.0f} per second"
        if operations and "peak_flops" in self.figures:
            share = operations * images / (ms / 1000) / self.figures["peak_flops"]
            self.figures[f"{name}_share_of_peak"] = share
            text += f", {share:.1%} of the peak"
        if self.on_gpu:
            self.figures[f"{name}_gib"] = torch.cuda.max_memory_allocated() / 2**30
            text += f", {self.figures[f'{name}_gib']:.1f} GiB"
        say(text)


def _sum(losses: dict[str, Tensor]) -> Tensor:
    first, *others = losses.values()
    return sum(others, start=first)


def first_of(samples: Samples, count: int) -> Split:
    """Return the first samples of a split, which is not streamed."""
    split = cast(Split, samples)
    return split.take(torch.arange(min(count, len(split))))


def say(*text: object) -> None:
    print(f"[{time.perf_counter() - START:6.1f} s]", *text, flush=True)

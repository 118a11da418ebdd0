"""The cost of a run, estimated from a few timed steps of its nets on random images. No data is needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .arms import own_arm
from .data import Input, MemoryImages, Preprocessing, Resize, Split, to_input
from .learner import Learner
from .lessons import stored_top_k
from .logits import Cost, answer_bytes, cost, fill_batch, teachers_rate
from .losses import soft_cross_entropy
from .models import create_student, create_teacher
from .recipe import Recipe, Training


class Estimate(NamedTuple):
    """The seconds that each stage takes on one device.

    Attributes:
        teachers: the seconds to train each teacher, by name.
        store: the bytes and seconds of the logit store, and from which student on it is cheaper than teachers that
            answer during the training; None if the recipe stores nothing.
        student: the seconds to train the student, without the teachers' answers.
    """

    teachers: dict[str, float]
    store: Cost | None
    student: float

    @property
    def seconds(self) -> float:
        """The seconds of the whole run."""
        return sum(self.teachers.values()) + (self.store.fill_seconds if self.store else 0.0) + self.student


def estimate(recipe: Recipe, *, images: int, classes: int, size: int, device: torch.device) -> Estimate:
    """Estimate a run on `images` training images of `classes` classes, `size` pixels wide and high.

    Raises:
        RecipeError: the recipe's nets can't be created for such images.
    """
    input = Input(height=size, width=size, resize=Resize(mode="cover", size=(size, size)))
    preprocessing = Preprocessing(input=input, mean=recipe.data.mean, std=recipe.data.std)
    teachers = {name: create_teacher(it.from_scratch(), classes, preprocessing) for name, it in recipe.teachers.items()}
    training = {
        name: _training_seconds(
            teacher.net, teacher.preprocessing, recipe.teachers[name].training, images, classes, device
        )
        for name, teacher in teachers.items()
    }
    student = create_student(recipe.student.from_scratch(), len(teachers), classes, preprocessing)
    learning = _training_seconds(student, preprocessing, recipe.student.training, images, classes, device)
    arm, store = own_arm(recipe), None
    if arm.stored_views:
        ready = {name: teacher._replace(net=teacher.net.eval()).to(device) for name, teacher in teachers.items()}
        store = cost(
            views=arm.stored_views,
            view_bytes=images * len(teachers) * answer_bytes(classes, stored_top_k(recipe, classes)),
            samples=images,
            epochs=recipe.student.training.epochs,
            images_per_second=teachers_rate(ready, _random(fill_batch(size, size, device), size, device), arm.spec),
        )
    return Estimate(training, store, learning)


def _training_seconds(
    net: nn.Module, preprocessing: Preprocessing, training: Training, images: int, classes: int, device: torch.device
) -> float:
    learner = Learner(net, training.from_scratch(), 1000, device)  # the steps after those that are frozen
    size = preprocessing.input.height
    inputs = to_input(torch.rand(training.batch, 3, size, size, device=device), preprocessing)
    labels = torch.randint(classes, (training.batch,), device=device)
    targets = nn.functional.one_hot(labels, classes).float()

    def loss_of(output: Tensor) -> Tensor:
        return soft_cross_entropy(
            output.flatten(0, -2), targets.repeat_interleave(output.numel() // targets.numel(), 0)
        )

    seconds = _fastest(lambda number: learner.step(number, inputs, loss_of).item())
    return seconds * training.epochs * images / training.batch


def _fastest(run: Callable[[int], float], rounds: int = 3) -> float:
    times = []
    for number in range(1 + rounds):  # the first warms up
        started = time.perf_counter()
        run(number)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _random(count: int, size: int, device: torch.device) -> Split:
    pixels = torch.randint(256, (count, size, size, 3), dtype=torch.uint8)
    labels, ids = torch.zeros(count, dtype=torch.int64), torch.arange(count)
    return Split(MemoryImages(pixels), labels, ids, list(map(str, range(count)))).to(device)

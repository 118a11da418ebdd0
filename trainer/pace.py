"""The pace of a machine: each stage is begun as it will be, in a folder that is thrown away, and stopped after some
steps. Nothing is modelled that can be timed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from msgspec.structs import replace
from torch import nn

from .data import Dataset, Preprocessing, Split, to_device
from .evaluate import EVALUATION_BATCH, logits_of
from .logits import LogitStore, fill_missing
from .loop import steps_of_epoch
from .models import Teacher, create_teacher
from .pipeline import open_store
from .progress import Progress, Silent
from .recipe import Recipe, Training
from .run import Run, create_student
from .train import Arm, train_student, train_teacher

LEAST_STEPS = 3
"""Steps that are timed, however long they take."""


class Pace(NamedTuple):
    """The seconds of a stage: for each `epoch`, and `once`, before the first step and after the last."""

    once: float
    epoch: float

    def seconds(self, epochs: int) -> float:
        """Return the seconds of so many epochs; none for a net that is not trained."""
        return self.once + self.epoch * epochs if epochs else 0.0


class Paces:
    """The paces of a recipe's stages on one device, each timed when it is first asked for.

    Args:
        recipe: what its epochs and views are counted in does not matter.
        seconds: how long the steps of one net are timed, once the first is done.
    """

    def __init__(self, recipe: Recipe, data: Dataset, device: torch.device, seconds: float) -> None:
        self.recipe, self.data, self.device, self.seconds = recipe, data, device, seconds
        self._known: dict[bytes, Pace] = {}

    def teacher(self, name: str) -> Pace:
        """Return the pace at which a teacher is trained."""
        it = self.recipe.teachers[name]

        def measured() -> Pace:
            if not it.training.epochs:
                return Pace(0.0, 0.0)
            once, step = self._timed(
                lambda folder, progress: train_teacher(
                    Run(folder, self.recipe), name, self.data, self.device, progress
                ),
                it.training,
            )
            created = self._untrained[name]
            return self._pace(once, step, self.data.train, it.training, created.net, created.preprocessing)

        return self._remembered(["teacher", name], measured)

    def student(self, arm: Arm) -> Pace:
        """Return the pace at which an arm's student is trained, its teachers' answers at hand if they are stored."""
        views, training = arm.recipe.views, arm.recipe.student.training
        one_view = replace(views, count=1, mode="replay" if views.mode == "exact" else views.mode)
        recipe = replace(arm.recipe, views=one_view)
        timed = Arm(arm.stage, arm.teachers, recipe, arm.unlabelled)

        def measured() -> Pace:
            once, step = self._timed(lambda folder, progress: self._begin(timed, folder, progress), training)
            net = create_student(recipe.student, len(recipe.teachers), len(self.data.labels), self.data.preprocessing)
            return self._pace(once, step, arm.split(self.data), training, net, self.data.preprocessing)

        shape = replace(recipe.student, training=replace(training, epochs=1))
        return self._remembered([arm.teachers, arm.unlabelled, recipe.views, shape], measured)

    @cached_property
    def seconds_to_answer(self) -> float:
        """Return the seconds in which all teachers answer for one picture of a view, and that is stored."""
        arm = Arm("student", tuple(self.recipe.teachers), self.recipe)
        split = to_device(arm.split(self.data), self.device, Silent())

        def filled(folder: Path, progress: Progress) -> None:
            fill_missing(self._store(arm, folder), self._untrained, split, progress)

        return self._timed(filled)[1]

    @cached_property
    def _untrained(self) -> dict[str, Teacher]:
        classes, preprocessing = len(self.data.labels), self.data.preprocessing
        bare = {
            name: replace(it, pretrained=False, weights=None, training=replace(it.training, epochs=1))
            for name, it in self.recipe.teachers.items()
        }
        created = {name: create_teacher(it, classes, preprocessing).to(self.device) for name, it in bare.items()}
        for teacher in created.values():
            teacher.net.eval()
        return created

    def _begin(self, arm: Arm, folder: Path, progress: Progress) -> None:
        run, answers = Run(folder, arm.recipe), self._untrained if arm.teachers else {}
        if arm.stored_views:
            store = self._store(arm, folder)
            for shard, places in enumerate(store.shards()):
                nothing = torch.zeros(len(places), store.header.classes)
                store.write(0, shard, dict.fromkeys(store.header.teachers, nothing))
            answers = store
        train_student(run, self.data, arm, answers, self.device, progress)

    def _store(self, arm: Arm, folder: Path) -> LogitStore:
        return open_store(Run(folder, arm.recipe), self.data, arm, self._untrained)

    def _pace(
        self, once: float, step: float, split: Split, training: Training, net: nn.Module, preprocessing: Preprocessing
    ) -> Pace:
        """Add what follows an epoch, the validation, and the training: the net is judged, and shown in a report."""
        net, sample = net.to(self.device), self.data.test.take(torch.arange(min(EVALUATION_BATCH, len(self.data.test))))
        logits_of(net, sample, preprocessing)
        started = time.perf_counter()
        logits_of(net, sample, preprocessing).sum().item()
        picture = (time.perf_counter() - started) / len(sample)
        validation, test = len(self.data.validation) * picture, len(self.data.test) * picture
        return Pace(once + 2 * validation + 2 * test, step * steps_of_epoch(split, training.batch) + validation)

    def _timed(self, work: Callable[[Path, Progress], object], training: Training | None = None) -> tuple[float, float]:
        """Return the seconds before the first step of `work`, and of a step. A compiler is faster the second time."""
        for _ in range(2 if training and training.compile else 1):
            progress = _Stopwatch(self.device, self.seconds)
            with tempfile.TemporaryDirectory() as folder, suppress(_Enough):
                work(Path(folder), progress)
        return progress.measured()

    def _remembered(self, what: object, measured: Callable[[], Pace]) -> Pace:
        key = msgspec.json.encode(what)
        if key not in self._known:
            self._known[key] = measured()
        return self._known[key]


class _Enough(Exception):
    """The steps that were to be timed are done."""


class _Stopwatch(Silent):
    """Watches the steps of a stage, and ends it after some."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self.seconds = device, seconds
        self.first_steps = self.steps = 0
        self.started = self.first = self.last = time.perf_counter()

    def step(self, steps: int = 1, note: str = "") -> None:
        if not steps:
            return
        if not self.first_steps:
            self.first, self.first_steps = self._now(), steps
            return
        self.steps += steps
        if self.steps >= LEAST_STEPS and time.perf_counter() - self.first >= self.seconds:
            self.last = self._now()
            raise _Enough

    def measured(self) -> tuple[float, float]:
        """Return the seconds before the first step, and of a step; all of them where there was but one."""
        if self.last == self.started:  # the stage ended by itself
            self.last = self._now()
        if not self.steps:
            return 0.0, (self.first - self.started) / max(1, self.first_steps)
        step = (self.last - self.first) / self.steps
        return max(0.0, self.first - self.started - step * self.first_steps), step

    def _now(self) -> float:
        if self.device.type == "cuda":  # whose queue may be long
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

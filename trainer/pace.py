"""The pace of a machine: how long an epoch of each stage takes here.

Each stage is started as it will be in the run, in a temporary folder, and stopped after some steps. Everything that can
be timed is timed; nothing is modelled.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import torch
from msgspec.structs import replace
from torch import nn

from .arms import Arm, own_arm
from .data import Preprocessing, Split, to_device
from .evaluate import EVALUATION_BATCH, logits_of
from .lessons import LabelLessons, Lessons, OnlineLessons, StoredLessons, open_store
from .logits import LogitStore, fill_missing
from .loop import steps_of_epoch
from .models import Teacher, create_student, create_teacher
from .progress import Progress, Silent
from .recipe import Recipe, StudentRecipe, TeacherRecipe, Training
from .run import Job, Run
from .train import train_student, train_teacher

NetRecipe = TypeVar("NetRecipe", TeacherRecipe, StudentRecipe)

LEAST_STEPS = 3
"""The number of steps that are timed, however long they take."""


class Pace(NamedTuple):
    """The seconds that a stage takes.

    Attributes:
        once: before the first step and after the last one.
        epoch: for each epoch.
    """

    once: float
    epoch: float

    def seconds(self, epochs: int) -> float:
        """Return the seconds of that many epochs; 0 for a net that is not trained."""
        return self.once + self.epoch * epochs if epochs else 0.0


class Paces:
    """The paces of a run's stages. Each is timed when it is first asked for.

    Args:
        job: the run that is about to start. How many epochs and views its recipe has does not matter, and nothing is
            written into its folder.
        seconds: how long the steps of one net are timed, after the first step.
    """

    def __init__(self, job: Job, seconds: float) -> None:
        self.recipe, self.data, self.device, self.seconds = _thawed(job.run.recipe), job.data, job.device, seconds
        self._known: dict[bytes, Pace] = {}

    def teacher(self, name: str) -> Pace:
        """Return the pace at which a teacher is trained."""
        it = self.recipe.teachers[name]

        def measured() -> Pace:
            if not it.training.epochs:
                return Pace(0.0, 0.0)
            once, step = self._timed(
                lambda folder, progress: train_teacher(
                    Job(Run(folder, self.recipe), self.data, self.device, progress), name
                ),
                it.training,
            )
            created = self._untrained[name]
            return self._pace(once, step, self.data.train, it.training, created.net, created.preprocessing)

        return self._remembered(["teacher", name], measured)

    def student(self, arm: Arm) -> Pace:
        """Return the pace at which an arm's student is trained, without the time to store its teachers' answers."""
        views, training = arm.recipe.views, arm.recipe.student.training
        one_view = replace(views, count=1, mode="replay" if views.mode == "exact" else views.mode)
        recipe = replace(_thawed(arm.recipe), views=one_view)
        timed = Arm(arm.stage, arm.teachers, recipe, arm.unlabelled)

        def measured() -> Pace:
            once, step = self._timed(lambda folder, progress: self._begin(timed, folder, progress), training)
            net = create_student(
                recipe.student.from_scratch(), len(recipe.teachers), len(self.data.labels), self.data.preprocessing
            )
            return self._pace(once, step, arm.split(self.data), training, net, self.data.preprocessing)

        shape = replace(recipe.student, training=replace(training, epochs=1))
        return self._remembered([arm.teachers, arm.unlabelled, recipe.views, shape], measured)

    @cached_property
    def seconds_to_answer(self) -> float:
        """The seconds that all teachers take to answer for one image of a view, and to store that."""
        arm = own_arm(self.recipe)
        split = to_device(arm.split(self.data), self.device, Silent())

        def filled(folder: Path, progress: Progress) -> None:
            fill_missing(self._store(arm, folder), self._untrained, split, progress)

        return self._timed(filled)[1]

    @cached_property
    def _untrained(self) -> dict[str, Teacher]:
        classes, preprocessing = len(self.data.labels), self.data.preprocessing
        bare = {name: it.from_scratch() for name, it in self.recipe.teachers.items()}
        created = {name: create_teacher(it, classes, preprocessing).to(self.device) for name, it in bare.items()}
        for teacher in created.values():
            teacher.net.eval()
        return created

    def _begin(self, arm: Arm, folder: Path, progress: Progress) -> None:
        job = Job(Run(folder, arm.recipe), self.data, self.device, progress)
        train_student(job, arm, self._lessons(arm, folder))

    def _lessons(self, arm: Arm, folder: Path) -> Lessons:
        """Return the lessons of an arm, with zeros as the stored answers."""
        if not arm.teachers:
            return LabelLessons()
        if not arm.stored_views:
            return OnlineLessons(arm, self._untrained)
        store = self._store(arm, folder)
        for shard, places in enumerate(store.shards()):
            zeros = torch.zeros(len(places), store.header.classes)
            store.write(0, shard, dict.fromkeys(store.header.teachers, zeros))
        return StoredLessons(arm, store, self.device)

    def _store(self, arm: Arm, folder: Path) -> LogitStore:
        return open_store(Run(folder, arm.recipe), self.data, arm, self._untrained)

    def _pace(
        self, once: float, step: float, split: Split, training: Training, net: nn.Module, preprocessing: Preprocessing
    ) -> Pace:
        """Return the pace with what follows an epoch (validation) and the training (evaluation, and the report)."""
        net, sample = net.to(self.device), self.data.test.take(torch.arange(min(EVALUATION_BATCH, len(self.data.test))))
        logits_of(net, sample, preprocessing)
        started = time.perf_counter()
        logits_of(net, sample, preprocessing).sum().item()
        image = (time.perf_counter() - started) / len(sample)
        validation, test = len(self.data.validation) * image, len(self.data.test) * image
        return Pace(once + 2 * validation + 2 * test, step * steps_of_epoch(split, training.batch) + validation)

    def _timed(self, work: Callable[[Path, Progress], object], training: Training | None = None) -> tuple[float, float]:
        """Return the seconds before the first step of `work`, and those of a step.

        Work that is compiled is done twice: the second time, the compiler has its results in a cache.
        """
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


def _thawed(recipe: Recipe) -> Recipe:
    """Return the recipe with the steps that follow the epochs in which weights are frozen; those take longer."""

    def thawed(net: NetRecipe) -> NetRecipe:
        return replace(net, training=replace(net.training, frozen=0))

    teachers = {name: thawed(it) for name, it in recipe.teachers.items()}
    return replace(recipe, teachers=teachers, student=thawed(recipe.student))


class _Enough(Exception):
    """Enough steps are timed."""


class _Stopwatch(Silent):
    """Times the steps of a stage, and ends the stage after some of them."""

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
        """Return the seconds before the first step, and those of a step. A single step counts with all the time."""
        if self.last == self.started:  # the stage ended before enough steps were timed
            self.last = self._now()
        if not self.steps:
            return 0.0, (self.first - self.started) / max(1, self.first_steps)
        step = (self.last - self.first) / self.steps
        return max(0.0, self.first - self.started - step * self.first_steps), step

    def _now(self) -> float:
        if self.device.type == "cuda":  # its queue may be long
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

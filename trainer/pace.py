"""The pace of a machine: how long an epoch of each stage takes here.

Each stage is started as it will be in the run, on a sample of the images and in a temporary folder, and stopped after
some steps. Everything that can be timed is timed. Only the size of a batch is modelled: a CPU takes as long for an
image in a small batch as in a large one.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace as with_
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from msgspec.structs import replace
from torch import nn

from .arms import Arm, own_arm
from .beside import at_once, fillers
from .counts import Counts
from .data import Dataset, Preprocessing, to_device
from .evaluate import EVALUATION_BATCH, logits_of
from .lessons import LabelLessons, Lessons, OnlineLessons, StoredLessons, open_store
from .logits import LogitStore, fill_missing
from .loop import RENDERED_AT_ONCE
from .models import Teacher, create_student, create_teacher
from .progress import Progress, Silent
from .recipe import Recipe, Training
from .run import Job, Run
from .threads import computing_with
from .train import train_student, train_teacher

LEAST_STEPS = 3
"""The number of steps that are timed, however long they take."""

LAPS = 8
"""The number of groups of steps, of equal time, whose median counts. A slow step is a group of its own."""

BATCH_OF_96 = 32
"""The largest batch of images of 96 x 96 that is timed on a CPU, where larger ones take as long for each image. Smaller
images are computed faster, but need larger batches for that: there are twice as many of 48 x 48."""

TIMED_VIEWS = 1000
"""The views of the store that is filled while it is timed, which ends long before the last one."""


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
    """The paces of a run's stages. Each is timed when it is first asked for, and the job's progress is told so.

    Args:
        job: the run that is about to start. How many epochs and views its recipe has does not matter, and nothing is
            written into its folder.
        seconds: how long the steps of one net are timed, after the first step.
        batch: the largest batch of images of 96 x 96 that is timed on a CPU.
        counts: the number of images in the run; None means those of the job. The job's images are a sample of them.
        side_by_side: whether stages that need nothing of each other are done at the same time where that is faster.
    """

    def __init__(
        self,
        job: Job,
        seconds: float,
        batch: int = BATCH_OF_96,
        counts: Counts | None = None,
        *,
        side_by_side: bool = True,
    ) -> None:
        self._job, self._side_by_side = job, side_by_side
        self.recipe, self.device, self.progress = from_scratch(job.run.recipe), job.device, job.progress
        self._kept = {name for name, it in job.run.recipe.teachers.items() if not it.training.epochs}
        self.seconds, self.batch = seconds, batch
        self.counts, self.classes = counts or Counts.of(job.data), len(job.data.labels)
        self.data = _sample(job.data, _images_to_time(job))
        self._known: dict[bytes, Pace] = {}

    def at_once(self, trainings: Sequence[tuple[int, Training]]) -> int:
        """Return how many of some trainings are done at the same time; see `trainer.beside`.

        Args:
            trainings: the number of images and the schedule of each.
        """
        shown = [images * training.epochs for images, training in trainings]
        return at_once(self._job, shown, self.counts) if self._side_by_side else 1

    def teacher(self, name: str, slots: int = 1) -> Pace:
        """Return the pace at which a teacher is trained, if `slots` stages share the threads."""
        it = self.recipe.teachers[name]

        def measured() -> Pace:
            if name in self._kept:
                return Pace(0.0, 0.0)
            created = self._untrained[name]
            timed = replace(it, training=self._smaller(it.training, created.preprocessing))
            recipe = replace(self.recipe, teachers={**self.recipe.teachers, name: timed})
            once, step = self._timed(
                f"teacher {name}",
                lambda folder, progress: train_teacher(
                    Job(Run(folder, recipe), self.data, self.device, progress), name
                ),
                timed.training,
                slots,
            )
            image = step / min(timed.training.batch, len(self.data.train))
            return self._pace(once, image, self.counts.train, it.training, created.net, created.preprocessing)

        return self._remembered(["teacher", name, slots], measured)

    def student(self, arm: Arm, slots: int = 1) -> Pace:
        """Return the pace at which an arm's student is trained, without the time to store its teachers' answers.

        Args:
            slots: the number of stages that share the threads.
        """
        views, training = arm.recipe.views, arm.recipe.student.training.from_scratch()
        one_view = replace(views, count=1, mode="replay" if views.mode == "exact" else views.mode)
        smaller = self._smaller(training, self.data.preprocessing)
        bare = from_scratch(arm.recipe)
        recipe = replace(bare, views=one_view, student=replace(bare.student, training=smaller))
        timed = Arm(arm.stage, arm.teachers, recipe, arm.unlabelled)

        def measured() -> Pace:
            begun = partial(self._begin, timed)
            once, step = self._timed(arm.stage, begun, smaller, slots)
            net = create_student(recipe.student, len(recipe.teachers), self.classes, self.data.preprocessing)
            image = step / min(smaller.batch, arm.images(Counts.of(self.data)))
            return self._pace(once, image, arm.images(self.counts), training, net, self.data.preprocessing)

        shape = replace(recipe.student, training=replace(training, epochs=1))
        # It makes no difference how many teachers' answers are read, but it does how many answer in every step.
        taught = arm.teachers if views.mode == "online" else bool(arm.teachers)
        return self._remembered([taught, arm.unlabelled, one_view, shape, slots], measured)

    @cached_property
    def seconds_to_answer(self) -> float:
        """The seconds that all teachers take to answer for one image of a view, and to store that.

        If several processes fill the store together, it is the time between two of their answers.
        """
        arm = own_arm(self.recipe)
        views = max(1, arm.stored_views)
        together = fillers(self._job, views * arm.images(self.counts), views, self.counts) if self._side_by_side else 1
        count = self._timed_batch(self.data.preprocessing)
        few = self.data if self.device.type == "cuda" else _sample(self.data, count)
        split, decoding = to_device(arm.split(few), self.device, Silent()), 0.0
        if self.device.type == "cpu" and not split.nbytes:  # workers take longer to start than to decode these few
            started = time.perf_counter()
            split = split.few(len(split)).in_memory()
            decoding = (time.perf_counter() - started) / len(split)

        def filled(folder: Path, progress: Progress) -> None:
            store = open_store(Run(folder, arm.recipe), few, arm, self._untrained)
            fill_missing(LogitStore(store.folder, store.header, TIMED_VIEWS), self._untrained, split, progress)

        return (self._timed("the teachers' answers", filled, slots=together)[1] + decoding) / together

    @cached_property
    def _untrained(self) -> dict[str, Teacher]:
        classes, preprocessing = self.classes, self.data.preprocessing
        teachers = self.recipe.teachers.items()
        created = {name: create_teacher(it, classes, preprocessing).to(self.device) for name, it in teachers}
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
        store = open_store(Run(folder, arm.recipe), self.data, arm, self._untrained)
        for shard, places in enumerate(store.shards()):
            zeros = torch.zeros(len(places), store.header.classes)
            store.write(0, shard, dict.fromkeys(store.header.teachers, zeros))
        return StoredLessons(arm, store, self.device)

    def _smaller(self, training: Training, preprocessing: Preprocessing) -> Training:
        """Return a schedule with the batch that is timed."""
        batch = min(training.batch, self._timed_batch(preprocessing))
        return training if self.device.type == "cuda" else replace(training, batch=batch)

    def _timed_batch(self, preprocessing: Preprocessing) -> int:
        """Return the largest batch that is timed on a CPU, in training, answering and evaluation."""
        return max(4, self.batch * 96 // preprocessing.input.height // 2 * 2)

    def _pace(
        self, once: float, image: float, images: int, training: Training, net: nn.Module, preprocessing: Preprocessing
    ) -> Pace:
        """Return the pace with what follows an epoch (validation) and the training (evaluation, and the report).

        Args:
            image: the seconds of a step for each image in it.
            images: the number of images in an epoch.
        """
        count = EVALUATION_BATCH if self.device.type == "cuda" else self._timed_batch(preprocessing)
        net, sample = net.to(self.device), self.data.test.take(torch.arange(min(count, len(self.data.test))))
        logits_of(net, sample, preprocessing)
        started = time.perf_counter()
        logits_of(net, sample, preprocessing).sum().item()
        answer = (time.perf_counter() - started) / len(sample)
        validation, test = self.counts.validation * answer, self.counts.test * answer
        epoch = image * min(training.batch, images) * max(1, images // training.batch)
        return Pace(once + 2 * validation + 2 * test, epoch + validation)

    def _timed(
        self, what: str, work: Callable[[Path, Progress], object], training: Training | None = None, slots: int = 1
    ) -> tuple[float, float]:
        """Return the seconds before the first step of `work`, and those of a step, with its share of the threads.

        Work that is compiled is done twice: the second time, the compiler has its results in a cache.
        """
        self.progress.begin(f"timing {what}", 1)
        for _ in range(2 if training and training.compile else 1):
            progress = _Stopwatch(self.device, self.seconds)
            with (
                computing_with(max(1, torch.get_num_threads() // slots)),
                tempfile.TemporaryDirectory() as folder,
                suppress(_Enough),
            ):
                work(Path(folder), progress)
        self.progress.end()
        return progress.measured()

    def _remembered(self, what: object, measured: Callable[[], Pace]) -> Pace:
        key = msgspec.json.encode(what)
        if key not in self._known:
            self._known[key] = measured()
        return self._known[key]


def from_scratch(recipe: Recipe) -> Recipe:
    """Return the recipe without published weights, which may be absent; steps with frozen ones are shorter."""
    teachers = {name: it.from_scratch() for name, it in recipe.teachers.items()}
    return replace(recipe, teachers=teachers, student=recipe.student.from_scratch())


def _images_to_time(job: Job) -> int:
    """Return the number of images that are enough: some batches, and as many as a GPU renders at once, twice."""
    recipe, size = job.run.recipe, job.data.preprocessing.input
    trainings = [recipe.student.training, *(it.training for it in recipe.teachers.values())]
    batches = 8 * max(training.batch for training in trainings)
    on_gpu = 2 * RENDERED_AT_ONCE // (size.height * size.width)
    return max(batches, on_gpu) if job.device.type == "cuda" else batches


def _sample(data: Dataset, count: int) -> Dataset:
    """Return at most `count` images to train on, evenly spread, and few of the other splits."""
    return with_(
        data,
        train=data.train.few(count),
        unlabelled=None if data.unlabelled is None else data.unlabelled.few(count),
        validation=data.validation.few(EVALUATION_BATCH),
        test=data.test.few(EVALUATION_BATCH),
    )


class _Enough(Exception):
    """Enough steps are timed."""


class _Stopwatch(Silent):
    """Times the steps of a stage, and ends the stage after some of them. The first step warms up."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self.seconds = device, seconds
        self.first_steps = self.steps = self.pending = 0
        self.started = self.first = self.last = time.perf_counter()
        self.laps: list[float] = []

    def step(self, steps: int = 1, note: str = "") -> None:
        if not steps:
            return
        if not self.first_steps:
            self.first = self.last = self._now()
            self.first_steps = steps
            return
        self.steps += steps
        self.pending += steps
        is_enough = self.steps >= LEAST_STEPS and time.perf_counter() - self.first >= self.seconds
        if is_enough or time.perf_counter() - self.last >= self.seconds / LAPS:
            now = self._now()
            self.laps.append((now - self.last) / self.pending)
            self.last, self.pending = now, 0
        if is_enough:
            raise _Enough

    def measured(self) -> tuple[float, float]:
        """Return the seconds before the first step, and those of a step. A single step counts with all the time."""
        if not self.laps:  # the stage ended before enough steps were timed
            count = max(1, self.first_steps + self.steps)
            return 0.0, (self._now() - self.started) / count
        step = statistics.median(self.laps)
        return max(0.0, self.first - self.started - step * self.first_steps), step

    def _now(self) -> float:
        if self.device.type == "cuda":  # its queue may be long
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

"""The time and the storage that a run takes, from the paces of its stages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from heapq import heapreplace
from typing import NamedTuple

import torch

from sdk.errors import FileError

from . import parallel
from .arms import Arm, own_arm
from .counts import Counts
from .data import Dataset, Input, MemoryImages, Preprocessing, Resize, Split
from .lessons import stored_form
from .logits import Cost, cost
from .pace import Paces
from .recipe import Recipe
from .run import Job, teacher_stage
from .units import duration

QUICK_S, QUICK_BATCH = 0.3, 16
"""The seconds that the steps of each net are timed before a run begins, and the largest batch; see `Paces`."""

IMAGINED = 2**16
"""So many images of a split are imagined at most, however many a plan is for. No more than these are ever timed."""


class Estimate(NamedTuple):
    """The seconds that each stage of a run takes on one device.

    Attributes:
        teachers: the seconds to train each teacher, by name.
        store: the seconds to fill the logit stores.
        students: the seconds to train the student of each arm, by its stage, without the teachers' answers.
        teachers_at_once, students_at_once: how many of them are trained at the same time.
    """

    teachers: dict[str, float]
    store: float
    students: dict[str, float]
    teachers_at_once: int = 1
    students_at_once: int = 1

    @property
    def seconds(self) -> float:
        """The seconds of the whole run."""
        taught = _together(self.teachers.values(), self.teachers_at_once)
        return taught + self.store + _together(self.students.values(), self.students_at_once)

    def shared(self, fillers: int, trainers: int) -> Estimate:
        """Return the least seconds of the stages when so many processes, each with such a device, share them.

        Stores divide by their number, because the units of a store are independent. Trainings take longer than this,
        because the processes wait for each other in every step.
        """
        teachers = {name: seconds / trainers for name, seconds in self.teachers.items()}
        students = {stage: seconds / trainers for stage, seconds in self.students.items()}
        return self._replace(teachers=teachers, store=self.store / fillers, students=students)

    def __str__(self) -> str:
        stages = {f"teacher {name}": seconds for name, seconds in self.teachers.items()}
        stages |= {"logit store": self.store} if self.store else {}
        stages |= self.students
        parts = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in stages.items())
        side_by_side = max(self.teachers_at_once, self.students_at_once)
        with_others = f", with {side_by_side} side by side" if side_by_side > 1 else ""
        return f"{parts}; about {duration(self.seconds)} in all{with_others}"


def _together(seconds: Iterable[float], at_once: int) -> float:
    """Return the time until the last stage has ended. They begin in this order, each as soon as another one ends."""
    ends = [0.0] * at_once
    for stage in seconds:
        heapreplace(ends, ends[0] + stage)
    return max(ends)


def estimate(
    recipe: Recipe,
    arms: Sequence[Arm],
    paces: Paces,
    *,
    teachers: Collection[str] | None = None,
    is_done: Callable[[str], bool] = lambda stage: False,
) -> Estimate:
    """Return the time of a run that trains the teachers of `recipe` and these arms.

    Args:
        teachers: the teachers that it trains; None means all.
        is_done: tells whether a stage is finished. Such a stage takes no time and is not timed.
    """
    teachers_at_once = paces.at_once([(paces.counts.train, it.training) for it in recipe.teachers.values()])
    students_at_once = paces.at_once([(arm.images(paces.counts), arm.recipe.student.training) for arm in arms])
    taught = {
        name: paces.teacher(name, teachers_at_once).seconds(it.training.epochs)
        for name, it in recipe.teachers.items()
        if (teachers is None or name in teachers) and not is_done(teacher_stage(name))
    }
    stored: dict[object, int] = {}  # arms with the same views of the same images share a store
    students = {}
    for arm in arms:
        if is_done(arm.stage):
            continue
        images = arm.images(paces.counts)
        students[arm.stage] = paces.student(arm, students_at_once).seconds(arm.recipe.student.training.epochs)
        store = (arm.spec.hash(), stored_form(arm.recipe, paces.classes), images)
        stored[store] = max(stored.get(store, 0), images * arm.stored_views)
    answers = sum(stored.values())
    store_seconds = answers * paces.seconds_to_answer if answers else 0.0
    return Estimate(taught, store_seconds, students, teachers_at_once, students_at_once)


def tell_estimate(
    jobs: Sequence[Job], arms: Callable[[Recipe], Sequence[Arm]], teachers: Collection[str] | None = None
) -> None:
    """Tell the progress of some runs of the same recipe how long what is left of them will take.

    Where there is no room for temporary files, it tells nothing: a run does not fail because of its estimate.

    Args:
        jobs: runs that differ in their seeds.
        arms: the arms that each of them trains.
        teachers: the teachers that each of them trains; None means all.
    """
    first, sharing = jobs[0], parallel.world_size()

    def tell() -> None:
        paces = Paces(first, QUICK_S, QUICK_BATCH)
        try:
            found = [
                estimate(job.run.recipe, arms(job.run.recipe), paces, teachers=teachers, is_done=job.run.has)
                for job in jobs
            ]
        except (FileError, OSError):
            return
        if total := sum(one.seconds for one in found):
            seeds = f"; {duration(total)} for {len(jobs)} seeds" if len(jobs) > 1 else ""
            shared = f"; that is one process, and {sharing} share the work" if sharing > 1 else ""
            first.progress.tell(f"estimate: {max(found, key=lambda one: one.seconds)}{seeds}{shared}")

    parallel.from_first(tell)


def store_cost(recipe: Recipe, paces: Paces) -> Cost | None:
    """Return the cost of the store that the run's own student learns from; None if nothing is stored."""
    arm = own_arm(recipe)
    if not arm.stored_views:
        return None
    images = arm.images(paces.counts)
    return cost(
        views=arm.stored_views,
        view_bytes=images * len(recipe.teachers) * stored_form(recipe, paces.classes).bytes,
        samples=images,
        epochs=recipe.student.training.epochs,
        images_per_second=1 / paces.seconds_to_answer,
    )


def imagined(recipe: Recipe, counts: Counts, *, classes: int, size: int) -> Dataset:
    """Return data of so many labelled images, all of them the same noise, whose pixels take no memory."""
    input = Input(height=size, width=size, resize=Resize(mode="cover", size=(size, size)))
    noise = torch.randint(256, (1, size, size, 3), dtype=torch.uint8)

    def split(count: int) -> Split:
        labels, ids = torch.arange(count) % classes, torch.arange(count)
        return Split(MemoryImages(noise.expand(count, -1, -1, -1)), labels, ids, list(map(str, range(count))))

    return Dataset(
        train=split(counts.train),
        validation=split(counts.validation),
        test=split(counts.test),
        labels=tuple(map(str, range(classes))),
        preprocessing=Preprocessing(input=input, mean=recipe.data.mean, std=recipe.data.std),
    )

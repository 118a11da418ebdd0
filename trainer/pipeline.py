"""A whole run: train the teachers, fill the store, distil the student. Everything that is finished is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sdk.errors import UsageError

from . import parallel
from .arms import Arm, own_arm
from .beside import at_once, fillers, side_by_side
from .budget import own_student
from .counts import Counts
from .data import to_device
from .estimate import tell_estimate
from .joining import join
from .lessons import LabelLessons, OnlineLessons, StoredLessons, open_store
from .logits import CheckResult, Cost, FillResult, LogitStore, check, cost, fill_missing
from .metrics import add_row
from .models import Student, Teacher
from .progress import Progress, Silent
from .recipe import Recipe
from .records import StoreRow
from .run import STUDENT, Job, Run, load_student, load_teacher, teacher_stage
from .settings import UNCHANGED, Settings
from .start import RunRequest, Sources, at_work, source_of
from .train import train_student, train_teacher
from .units import ALL, Deadline, Part


def distill(
    data: Sources | None,
    out: str | Path,
    *,
    recipe: Recipe | str | Path | None = None,
    unlabelled: Sources = (),
    root: str | Path | None = None,
    seed: int | None = None,
    within: str | Deadline | None = None,
    device: str = "auto",
    threads: int | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
    settings: Settings = UNCHANGED,
) -> Run:
    """Train teachers and distil a student from them. Called again, it continues where it stopped.

    Args:
        data: a folder, an archive, the name of a dataset, or several of them; see `trainer.data.load`. None continues
            the run in `out` with its own data.
        out: the run's folder.
        recipe: a recipe, a TOML file, or the name of a recipe that comes with the package. The default is the recipe
            of the run in `out`, or else the one for images of this size.
        unlabelled: folders and archives of images that only the teachers label.
        root: the folder of a named dataset.
        seed: replaces the recipe's seed.
        within: the time that a new run may take, such as `30m`: its epochs and views are cut to what fits.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        threads: the number of threads on a CPU. With None, a new run measures which is the fastest.
        skip_bad: whether more than one image in a hundred may be unreadable, which are then left out.
        progress: follows the work; the default is silent.
        settings: changes to the recipe.

    Returns:
        the run. `load_student` takes it.

    Raises:
        UsageError: the arguments do not go together.
        DataError, RecipeError, RunError, StoreError: something is wrong with the data, the recipe or the folder, or
            another process works on it.
        FileError: the disk is full, or the folder can't be written.
        Diverged, OutOfMemory: a training failed.
    """
    request = RunRequest(
        out=Path(out),
        source=source_of(data, unlabelled, root, skip_bad),
        recipe=recipe,
        seed=seed,
        within=within,
        device=device,
        threads=threads,
        settings=settings,
    )
    with at_work(request, progress or Silent()) as job:
        tell_estimate([job], own_student)
        run_pipeline(job)
    return job.run


def run_pipeline(job: Job) -> Student:
    """Do every stage that is missing, in order, and return the distilled student in evaluation mode.

    Raises:
        StoreError: the store's folder holds a store that was made for something else.
        Diverged, OutOfMemory: a training failed.
    """
    if not job.run.has(STUDENT):
        train_teachers(job)
        train_arms(job, [own_arm(job.run.recipe)])
    return load_student(job.run)[0].to(job.device)


def train_teachers(job: Job) -> None:
    """Train the teachers of the run that are missing, side by side on a CPU with several threads.

    Raises:
        Diverged, OutOfMemory, ProcessLost, Stopped: a training failed or was stopped.
    """
    recipe, images = job.run.recipe, len(job.data.train)
    missing = [partial(_teach, name=name) for name in recipe.teachers if not job.run.has(teacher_stage(name))]
    side_by_side(job, missing, at_once(job, [images * it.training.epochs for it in recipe.teachers.values()]))


def train_arms(job: Job, arms: Sequence[Arm]) -> None:
    """Fill the stores that some arms learn from, and train the students that are missing, side by side like teachers.

    Raises:
        RunError: a teacher is not trained yet.
        StoreError: the store's folder holds a store that was made for something else.
        Diverged, OutOfMemory, ProcessLost, Stopped: a training failed or was stopped.
    """
    missing, counts = [arm for arm in arms if not job.run.has(arm.stage)], Counts.of(job.data)
    slots = at_once(job, [arm.images(counts) * arm.recipe.student.training.epochs for arm in arms])
    if slots > 1:  # or `train_arm` fills the store when it needs it
        for arm in missing:
            if arm.stored_views:
                fill_store(job, arm)
    side_by_side(job, [partial(_train, arm=arm) for arm in missing], slots)


def _teach(job: Job, name: str) -> None:
    train_teacher(job, name)


def _train(job: Job, arm: Arm) -> None:
    train_arm(job, arm)


def train_arm(job: Job, arm: Arm) -> Student:
    """Return the student of `arm`, trained with the run's teachers. Their answers are stored first if the arm says so.

    Raises:
        RunError: a teacher is not trained yet.
        StoreError: the store's folder holds a store that was made for something else.
        Diverged, OutOfMemory: the training failed.
    """
    if job.run.has(arm.stage) or not arm.teachers:
        return train_student(job, arm, LabelLessons())
    if not arm.stored_views:
        return train_student(job, arm, OnlineLessons(arm, load_teachers(job)))
    store, _ = fill_store(job, arm)
    return train_student(job, arm, StoredLessons(arm, store, job.device))


def fill_store(job: Job, arm: Arm, part: Part = ALL) -> tuple[LogitStore, FillResult]:
    """Fill a part of the store that `arm` learns from. Return the store with what was missing in that part.

    Raises:
        UsageError: the arm stores nothing.
        RunError: a teacher is not trained yet.
        StoreError: the folder holds a store that was made for something else.
    """
    store, teachers = _store_of(job, arm)
    units = parallel.from_first(lambda: len(store.missing(part)))
    if not units:
        return store, FillResult(units=0, answers=0, seconds=0.0)
    job.progress.tell(
        f"logit store: {store.views} views x {store.header.samples:,} images x {len(teachers)} teachers, "
        f"{units} of {len(part.of(list(store.units())))} units missing"
        f"{f' in part {part.number}/{part.count}' if part.count > 1 else ''}"
    )
    if (slots := fillers(job, store.views * store.header.samples, store.views * len(store.shards()))) > 1:
        done = _filled_side_by_side(job, arm, [own for own in part.parts(slots) if store.missing(own)], slots)
    else:
        split = to_device(arm.split(job.data), job.device, job.progress)
        done = fill_missing(store, teachers, split, job.progress, part)
    if done.units:
        row = StoreRow(stage=store.folder.name, units=done.units, answers=done.answers, seconds=done.seconds)
        parallel.from_first(lambda: add_row(job.run.folder, row))
        rate = done.answers / done.seconds
        job.progress.tell(f"logit store: {rate:,.0f} answers per second; {_cost(store, arm, rate / len(teachers))}")
    return store, done


def _filled_side_by_side(job: Job, arm: Arm, parts: Sequence[Part], slots: int) -> FillResult:
    started = time.perf_counter()
    filled = side_by_side(job, [partial(_fill, arm=arm, part=part) for part in parts], slots)
    seconds = time.perf_counter() - started
    return FillResult(units=sum(it.units for it in filled), answers=sum(it.answers for it in filled), seconds=seconds)


def _fill(job: Job, arm: Arm, part: Part) -> FillResult:
    store, teachers = _store_of(job, arm)
    return fill_missing(store, teachers, to_device(arm.split(job.data), job.device, job.progress), job.progress, part)


def join_stores(job: Job, arm: Arm, folders: Sequence[Path]) -> tuple[LogitStore, int]:
    """Join stores that were filled elsewhere to the one that `arm` learns from.

    Return it with the number of units that it got.

    Raises:
        UsageError: the arm stores nothing.
        RunError: a teacher is not trained yet.
        StoreError, FileError: see `join`.
    """
    store, _ = _store_of(job, arm)
    return store, parallel.from_first(lambda: sum(join(store, folder, job.progress) for folder in folders))


def check_store(job: Job, arm: Arm) -> tuple[LogitStore, CheckResult]:
    """Recompute a sample of the answers in the store that `arm` learns from. Return it with the errors.

    Raises:
        UsageError: the arm stores nothing.
        RunError: a teacher is not trained yet.
        StoreError: the folder holds a store that was made for something else, or a unit is missing or damaged.
    """
    store, teachers = _store_of(job, arm)
    return store, check(store, teachers, to_device(arm.split(job.data), job.device, job.progress))


def _store_of(job: Job, arm: Arm) -> tuple[LogitStore, dict[str, Teacher]]:
    teachers = load_teachers(job)
    if not arm.stored_views:
        raise UsageError("the recipe's teachers answer online, nothing is stored; set views.mode = 'replay'")
    return open_store(job.run, job.data, arm, teachers), teachers


def _cost(store: LogitStore, arm: Arm, images_per_second: float) -> Cost:
    return cost(
        views=store.views,
        view_bytes=store.header.view_bytes,
        samples=store.header.samples,
        epochs=arm.recipe.student.training.epochs,
        images_per_second=images_per_second,
    )


def load_teachers(job: Job) -> dict[str, Teacher]:
    """Return the run's trained teachers by name, on the job's device.

    Raises:
        RunError: a teacher is not trained yet.
    """
    return {name: load_teacher(job.run, name).to(job.device) for name in job.run.recipe.teachers}

"""A whole run: teach, fill the store, distil, evaluate. Whatever is done already is not done again."""

from __future__ import annotations

import hashlib

import msgspec
import torch

from .data import Dataset, Split, to_device
from .logits import Cost, Header, LogitStore, cost, fill_missing, teachers_rate
from .metrics import add_row
from .models import Student, Teacher
from .progress import Progress
from .recipe import Recipe
from .run import Run, load_student, load_teacher
from .train import Arm, own_arm, train_student, train_teacher

ALL_LOGITS_UP_TO, TOP_K = 1000, 100


def run_pipeline(run: Run, data: Dataset, device: torch.device, progress: Progress) -> Student:
    """Every stage that is missing, in order; the distilled student, in evaluation mode."""
    if run.has("student"):
        return load_student(run.folder)[0].to(device)
    for name in run.recipe.teachers:
        train_teacher(run, name, data, device, progress)
    return train_arm(run, data, own_arm(run), device, progress)


def train_arm(run: Run, data: Dataset, arm: Arm, device: torch.device, progress: Progress) -> Student:
    """A student, taught as `arm` says by the run's trained teachers, whose answers are stored first if they are to be.

    Raises:
        RunError: a teacher is not trained yet.
        StoreError: the store's folder holds one that was made for something else.
    """
    if run.has(arm.stage) or not arm.teachers:
        return train_student(run, data, arm, {}, device, progress)
    if not arm.stored_views:
        return train_student(run, data, arm, load_teachers(run, device), device, progress)
    return train_student(run, data, arm, precompute(run, data, arm, device, progress), device, progress)


def precompute(run: Run, data: Dataset, arm: Arm, device: torch.device, progress: Progress) -> LogitStore:
    """The store that `arm` learns from, filled.

    Raises:
        RunError: a teacher is not trained yet.
        StoreError: the folder holds a store that was made for something else.
    """
    teachers = load_teachers(run, device)
    store = open_store(run, data, arm, teachers)
    if store.missing():
        split = to_device(arm.split(data), device, progress)
        progress.tell(f"logit store: {reckon(store, arm, teachers, split)}")
        done = fill_missing(store, teachers, split, progress)
        if done.units:
            add_row(run.folder, store.folder.name, **msgspec.structs.asdict(done))
            progress.tell(
                f"logit store: {done.answers:,} answers in {done.seconds:.1f} s, "
                f"{done.answers / done.seconds:,.0f} a second"
            )
    return store


def reckon(store: LogitStore, arm: Arm, teachers: dict[str, Teacher], split: Split) -> Cost:
    """What the store costs, from a timed sample; see `trainer.logits.cost`."""
    return cost(
        views=store.views,
        view_bytes=store.header.view_bytes,
        samples=store.header.samples,
        epochs=arm.recipe.student.training.epochs,
        images_per_second=teachers_rate(teachers, split, store.header.spec),
    )


def load_teachers(run: Run, device: torch.device) -> dict[str, Teacher]:
    """The run's trained teachers, by name.

    Raises:
        RunError: one is not trained yet.
    """
    return {name: load_teacher(run, name).to(device) for name in run.recipe.teachers}


def open_store(run: Run, data: Dataset, arm: Arm, teachers: dict[str, Teacher]) -> LogitStore:
    """The store that `arm` learns from, as it is: the run's own, or one beside it for other views or pictures.

    Raises:
        StoreError: the folder holds a store that was made for something else.
    """
    classes, split = len(data.labels), arm.split(data)
    top_k = stored_top_k(arm.recipe, classes)
    header = Header(
        spec=arm.spec,
        spec_hash=arm.spec.hash(),
        data=split.hash(),
        seed=arm.recipe.seed,
        samples=len(split),
        classes=classes,
        top_k=top_k,
        teachers={name: teacher.hash() for name, teacher in teachers.items()},
    )
    return LogitStore(run.folder / _store_name(run, data, arm, top_k), header, arm.stored_views)


def stored_top_k(recipe: Recipe, classes: int) -> int:
    """How many logits of an answer are stored; 0 is all."""
    top_k = recipe.views.top_k
    if top_k is None:
        return 0 if classes <= ALL_LOGITS_UP_TO else TOP_K
    return top_k if top_k < classes else 0


def _store_name(run: Run, data: Dataset, arm: Arm, top_k: int) -> str:
    own = own_arm(run)
    same_pictures = arm.unlabelled or data.unlabelled is None
    if arm.spec == own.spec and arm.recipe.views.top_k == own.recipe.views.top_k and same_pictures:
        return "logits"
    what = msgspec.json.encode([arm.spec, top_k, same_pictures])
    return f"logits-{hashlib.sha256(what).hexdigest()[:8]}"

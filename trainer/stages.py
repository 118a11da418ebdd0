"""A whole run: teach, fill the store, distil, evaluate. Whatever is done already is not done again."""

from __future__ import annotations

import torch

from .checkpoint import weights_hash
from .data import Dataset
from .distill import distill
from .logits import Header, LogitStore, fill
from .models import Student
from .recipe import Recipe
from .run import Run, load_student, load_teacher
from .teach import teach
from .watch import Watch


def run_all(run: Run, data: Dataset, device: torch.device, watch: Watch) -> Student:
    """Every stage that is missing, in order; the distilled student, in evaluation mode."""
    if run.has("student"):
        return load_student(run.folder)[0].to(device)
    for name in run.recipe.teachers:
        teach(run, name, data, device, watch)
    return distill(run, data, precompute(run, data, device, watch), device, watch)


def precompute(run: Run, data: Dataset, device: torch.device, watch: Watch) -> LogitStore:
    """The run's logit store, filled.

    Raises:
        RunError: a teacher is not trained yet.
        StoreError: the folder holds a store that was made for something else.
    """
    teachers = {name: load_teacher(run, name).to(device) for name in run.recipe.teachers}
    store = open_store(run, data, teachers)
    fill(store, teachers, data.train.to(device), data.preprocessing, watch)
    return store


def open_store(run: Run, data: Dataset, teachers: dict[str, torch.nn.Module]) -> LogitStore:
    """The run's logit store, as it is; no more views than the student has epochs."""
    recipe: Recipe = run.recipe
    header = Header(
        spec=recipe.views.spec,
        spec_hash=recipe.views.spec.hash(),
        data=data.train.hash(),
        seed=recipe.seed,
        views=min(recipe.views.count, recipe.student.training.epochs),
        samples=len(data.train),
        classes=len(data.labels),
        teachers={name: weights_hash(teacher) for name, teacher in teachers.items()},
    )
    return LogitStore(run.folder / "logits", header)

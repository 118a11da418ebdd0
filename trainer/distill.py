"""The student, taught by the stored logits of all teachers at once, or by labels alone to compare with."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import torch
from torch import Tensor

from .data import Dataset
from .evaluate import fit_temperature, judge, logits_of
from .logits import LogitStore
from .loop import Plan, fit
from .losses import labels_alone, per_token
from .metrics import training_seconds
from .models import Student
from .recipe import Recipe
from .run import Run, create_student, load_student
from .views import seed_of
from .watch import Watch


def distill(run: Run, data: Dataset, store: LogitStore | None, device: torch.device, watch: Watch) -> Student:
    """Train the run's student, unless that is done, and return it in evaluation mode, its temperature fitted.

    Args:
        store: the teachers' answers. None trains the very same student, from the same first weights, on labels alone;
            with no store to bind it, it then has a view of its own in every epoch.
    """
    stage = "plain" if store is None else "student"
    if run.has(stage):
        return load_student(run.folder, stage)[0].to(device)
    recipe = run.recipe
    torch.manual_seed(seed_of(recipe.seed, "student"))
    student = create_student(recipe, len(data.labels), data.preprocessing.input.height)
    student = fit(
        student,
        data,
        recipe.student.training,
        (lambda epoch: Plan(epoch, _without_teachers)) if store is None else _replay(store, recipe, device),
        spec=recipe.views.spec,
        seed=recipe.seed,
        run=run.folder,
        stage=stage,
        device=device,
        watch=watch,
    )
    validation = data.validation.to(device)
    before = logits_of(student, validation, data.preprocessing)
    student.temperature.fill_(fit_temperature(before, validation.labels))
    config = {
        "labels": data.labels,
        "preprocessing": msgspec.to_builtins(data.preprocessing),
        "parameters": sum(parameter.numel() for parameter in student.parameters()),
        "temperature": student.temperature.item(),
        "teachers": [] if store is None else list(recipe.teachers),
        "seconds": training_seconds(run.folder, stage),
        "results": judge(student, data, device),
    }
    run.keep(stage, student, config)
    return student


def _without_teachers(logits: Tensor, targets: Tensor, places: Tensor) -> dict[str, Tensor]:
    return labels_alone(logits, targets)


def _replay(store: LogitStore, recipe: Recipe, device: torch.device) -> Callable[[int], Plan]:
    """The plan of a distillation: the stored views in turn, each with the answers stored for it."""
    weights = [teacher.weight for teacher in recipe.teachers.values()]
    temperatures = [teacher.temperature for teacher in recipe.teachers.values()]

    def plan(epoch: int) -> Plan:
        view = epoch % store.header.views
        answers = store.read(view).to(device)

        def objective(logits: Tensor, targets: Tensor, places: Tensor) -> dict[str, Tensor]:
            return per_token(
                logits,
                targets,
                answers[places].float(),
                label_weight=recipe.student.label_weight,
                weights=weights,
                temperatures=temperatures,
            )

        return Plan(view, objective)

    return plan

"""The student, taught by all teachers at once from their stored answers; and the arms that it is compared with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import msgspec
import torch
from torch import Tensor

from .checkpoint import read_json, write_text
from .data import Dataset, Split
from .errors import RunError
from .evaluate import fit_temperature, judge, logits_of, score
from .logits import LogitStore
from .loop import Batch, EpochPlan, fit
from .losses import Teaching, distillation, labels_alone, soft_cross_entropy
from .metrics import training_seconds
from .models import Student, Teacher, create_teacher
from .progress import Progress
from .recipe import Recipe
from .run import Run, create_student, load_student, load_teacher
from .views import ViewSpec, seed_of

NO_VIEWS = ViewSpec()
"""The untouched picture: what mode `clean` shows and stores."""


@dataclass(frozen=True)
class Arm:
    """A way to train the student: the run's own, or one to compare it with.

    Attributes:
        stage: where it is kept in the run's folder.
        teachers: those that teach it, in the recipe's order; none trains the very same net, from the same first
            weights, on labels alone. With no store to bind it, it then has a view of its own in every epoch.
        recipe: the run's, but for its `views` and `student`.
        unlabelled: whether it sees pictures without a label; for one without teachers there is nothing to learn there.
    """

    stage: str
    teachers: tuple[str, ...]
    recipe: Recipe
    unlabelled: bool = True

    def split(self, data: Dataset) -> Split:
        """The pictures that it learns from."""
        return data.students if self.teachers and self.unlabelled else data.train

    @property
    def spec(self) -> ViewSpec:
        is_clean = self.teachers and self.recipe.views.mode == "clean"  # without teachers no store asks for that
        return NO_VIEWS if is_clean else self.recipe.views.spec

    @property
    def stored_views(self) -> int:
        """How many views it needs from a store: 0 where nothing is stored, never more than it has epochs."""
        mode, epochs = self.recipe.views.mode, self.recipe.student.training.epochs
        counts = {"online": 0, "clean": 1, "exact": epochs, "replay": min(self.recipe.views.count, epochs)}
        return counts[mode] if self.teachers else 0

    def described(self) -> dict[str, Any]:
        """All that tells it from other arms of the same run, as JSON has it."""
        recipe = msgspec.to_builtins(self.recipe)
        what = {"teachers": self.teachers, "unlabelled": self.unlabelled}
        return json.loads(json.dumps({**what, "views": recipe["views"], "student": recipe["student"]}))

    def teaching(self) -> Teaching:
        """The loss of the recipe, for this arm's teachers.

        Raises:
            ValueError: the recipe asks for something that its loss does not have.
        """
        student, teachers = self.recipe.student, [self.recipe.teachers[name] for name in self.teachers]
        return Teaching(
            names=self.teachers,
            weights=[teacher.weight for teacher in teachers],
            temperatures=[teacher.temperature for teacher in teachers],
            label_weight=student.label_weight,
            loss=student.loss,
            loss_args=student.loss_args,
            standardize=student.standardize,
            ensemble=student.ensemble,
        )


def own_arm(run: Run) -> Arm:
    """The student that the run is for."""
    return Arm("student", tuple(run.recipe.teachers), run.recipe)


def plain_arm(run: Run) -> Arm:
    """The same student without teachers."""
    return Arm("arms/plain", (), run.recipe)


def train_student(
    run: Run,
    data: Dataset,
    arm: Arm,
    answers: LogitStore | dict[str, Teacher],
    device: torch.device,
    progress: Progress,
) -> Student:
    """Train the student of an arm, unless that is done, and return it in evaluation mode, its temperature fitted.

    Args:
        answers: the store of its teachers' answers, or the teachers themselves, to be asked while it learns.

    Raises:
        RunError: another arm is kept at its place.
        Diverged: see `trainer.loop.fit`.
    """
    _claim(run, arm)
    if run.has(arm.stage):
        return load_student(run.folder, arm.stage)[0].to(device)
    recipe = arm.recipe
    torch.manual_seed(seed_of(recipe.seed, "student"))
    student = create_student(recipe.student, len(recipe.teachers), len(data.labels), data.preprocessing)
    student = fit(
        student,
        arm.split(data),
        data,
        recipe.student.training,
        _plan(arm, answers, device),
        preprocessing=data.preprocessing,
        spec=arm.spec,
        extra=recipe.views.extra,
        seed=recipe.seed,
        run=run.folder,
        stage=arm.stage,
        device=device,
        progress=progress,
    )
    before = score(logits_of(student, data.test, data.preprocessing), data.test.labels)
    held_out = logits_of(student, data.validation, data.preprocessing)
    student.temperature.fill_(fit_temperature(held_out, data.validation.labels.to(device)))
    config = {
        "labels": data.labels,
        "preprocessing": msgspec.to_builtins(data.preprocessing),
        "student": msgspec.to_builtins(recipe.student),
        "parameters": sum(parameter.numel() for parameter in student.parameters()),
        "temperature": student.temperature.item(),
        "ece_before_temperature": before["ece"],
        "teachers": list(arm.teachers),
        "seconds": training_seconds(run.folder, arm.stage),
        "results": judge(student, data, data.preprocessing),
    }
    run.keep(arm.stage, student, config)
    return student


def _claim(run: Run, arm: Arm) -> None:
    """The first arm of a name is the only one: what is found there later is of no other."""
    path = run.folder / arm.stage / "arm.json"
    if not path.exists():
        write_text(path, json.dumps(arm.described(), indent=2) + "\n")
    elif read_json(path) != arm.described():
        raise RunError(f"{path.parent}: an arm of this name was trained otherwise; remove it, or name the new one anew")


def _plan(arm: Arm, answers: LogitStore | dict[str, Teacher], device: torch.device) -> Callable[[int], EpochPlan]:
    if not arm.teachers:
        return lambda epoch: EpochPlan(epoch, _without_teachers)
    return _replay(arm, answers, device) if isinstance(answers, LogitStore) else _online(arm, answers)


def _without_teachers(logits: Tensor, targets: Tensor, batch: Batch) -> dict[str, Tensor]:
    return labels_alone(logits, targets)


def _replay(arm: Arm, store: LogitStore, device: torch.device) -> Callable[[int], EpochPlan]:
    """The stored views in turn, each with the answers stored for it."""
    teaching = arm.teaching()
    columns = torch.tensor([list(store.header.teachers).index(name) for name in arm.teachers], device=device)
    # A GPU keeps what it was given as long as there is room; a CPU's memory has the files in its cache.
    kept = store.resident_views(device) if device.type == "cuda" else 0
    answers_for = lru_cache(kept)(partial(store.read, device=device))

    def plan(epoch: int) -> EpochPlan:
        view = epoch % arm.stored_views
        answers = answers_for(view)

        def objective(logits: Tensor, targets: Tensor, batch: Batch) -> dict[str, Tensor]:
            return distillation(logits, targets, answers.at(batch.places)[:, columns], teaching)

        return EpochPlan(view, objective)

    return plan


def _online(arm: Arm, teachers: dict[str, Teacher]) -> Callable[[int], EpochPlan]:
    """A view of its own for every epoch, shown to the teachers as well."""
    teaching = arm.teaching()

    def objective(logits: Tensor, targets: Tensor, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            answers = torch.stack([teachers[name].answer(batch.view.pixels) for name in arm.teachers], dim=1)
        return distillation(logits, targets, answers, teaching)

    return lambda epoch: EpochPlan(epoch, objective)


def train_teacher(run: Run, name: str, data: Dataset, device: torch.device, progress: Progress) -> Teacher:
    """Train the teacher `name` of the run's recipe, unless that is done, and return it in evaluation mode.

    Its views are drawn from a seed of its own, so that it is later asked about views that it has not seen.
    """
    stage = f"teachers/{name}"
    if run.has(stage):
        return load_teacher(run, name).to(device)
    recipe = run.recipe.teachers[name]
    seed = seed_of(run.recipe.seed, "teach", name)
    torch.manual_seed(seed)
    untrained = create_teacher(recipe, len(data.labels), data.preprocessing)
    net = fit(
        untrained.net,
        data.train,
        data,
        recipe.training,
        lambda epoch: EpochPlan(epoch, _teacher_labels),
        preprocessing=untrained.preprocessing,
        spec=recipe.views,
        seed=seed,
        run=run.folder,
        stage=stage,
        device=device,
        progress=progress,
    )
    config = {
        "model": recipe.model,
        "args": recipe.args,
        "classes": len(data.labels),
        "preprocessing": msgspec.to_builtins(untrained.preprocessing),
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "seconds": training_seconds(run.folder, stage),
        "results": judge(net, data, untrained.preprocessing),
    }
    run.keep(stage, net, config)
    return untrained._replace(net=net)


def _teacher_labels(logits: Tensor, targets: Tensor, batch: Batch) -> dict[str, Tensor]:
    return {"labels": soft_cross_entropy(logits, targets)}

"""The training of one net: a teacher, or the student of an arm."""

from __future__ import annotations

import torch
from torch import nn

from . import parallel
from .arms import Arm
from .errors import RunError
from .evaluate import helpful_temperature, judge, logits_of, score
from .lessons import Lessons, TeacherLessons
from .loop import Task, fit
from .metrics import training_seconds
from .models import Student, Teacher, classifiers, create_student, create_teacher, student_preprocessing
from .records import ArmRecord, StudentRecord, TeacherRecord, read_record, write_record
from .run import ARM, Job, Run, load_student, load_teacher, teacher_stage
from .views import seed_of


def train_teacher(job: Job, name: str) -> Teacher:
    """Train the teacher `name` of the run's recipe unless that is done, and return it in evaluation mode.

    Its views are drawn from a seed of its own, so that it has not seen the views that it answers for later.

    Raises:
        Diverged, OutOfMemory: see `trainer.loop.fit`.
    """
    run, data, stage = job.run, job.data, teacher_stage(name)
    if run.has(stage):
        return load_teacher(run, name).to(job.device)
    recipe = run.recipe.teachers[name]
    seed = seed_of(run.recipe.seed, "teach", name)
    torch.manual_seed(seed)
    untrained = create_teacher(recipe, len(data.labels), data.preprocessing)
    task = Task(
        stage=stage,
        split=data.train,
        training=recipe.training,
        preprocessing=untrained.preprocessing,
        spec=recipe.views,
        seed=seed,
        new=classifiers(untrained.net),
    )
    net = fit(untrained.net, TeacherLessons().epoch, task, job)
    record = TeacherRecord(
        model=recipe.model,
        args=recipe.args,
        classes=len(data.labels),
        preprocessing=untrained.preprocessing,
        parameters=_parameters(net),
        seconds=training_seconds(run.folder, stage),
        results=judge(net, data, untrained.preprocessing),
    )
    parallel.from_first(lambda: run.keep(stage, net, record))
    return untrained._replace(net=net)


def train_student(job: Job, arm: Arm, lessons: Lessons) -> Student:
    """Train the student of `arm` unless that is done. Return it in evaluation mode, its temperature fitted.

    Raises:
        RunError: another arm is kept in its place, or something of it is damaged.
        FileError: the disk is full, or the folder can't be written.
        Diverged, OutOfMemory: see `trainer.loop.fit`.
    """
    run, data, recipe = job.run, job.data, arm.recipe
    parallel.from_first(lambda: _claim(run, arm))
    if run.has(arm.stage):
        return load_student(run, arm.stage)[0].to(job.device)
    torch.manual_seed(seed_of(recipe.seed, "student"))
    preprocessing = student_preprocessing(recipe.student, data.preprocessing)
    untrained = create_student(recipe.student, len(recipe.teachers), len(data.labels), preprocessing)
    task = Task(
        stage=arm.stage,
        split=arm.split(data),
        training=recipe.student.training,
        preprocessing=preprocessing,
        spec=arm.spec,
        seed=recipe.seed,
        extra=recipe.views.extra,
        new=Student.NEW,
    )
    student = fit(untrained, lessons.epoch, task, job)
    before = score(logits_of(student, data.test, preprocessing), data.test.labels)
    held_out = logits_of(student, data.validation, preprocessing)
    temperature = helpful_temperature(held_out, data.validation.labels.to(job.device))
    student.temperature.fill_(temperature)
    if temperature == 1:
        job.progress.tell(
            f"{arm.stage}: no temperature: {len(held_out):,} validation images do not show that one would help"
        )
    record = StudentRecord(
        labels=data.labels,
        preprocessing=preprocessing,
        student=recipe.student,
        parameters=_parameters(student),
        temperature=student.temperature.item(),
        ece_before_temperature=before.ece,
        teachers=arm.teachers,
        seconds=training_seconds(run.folder, arm.stage),
        results=judge(student, data, preprocessing),
    )
    parallel.from_first(lambda: run.keep(arm.stage, student, record))
    return student


def _parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def _claim(run: Run, arm: Arm) -> None:
    if not check_claim(run, arm):
        write_record(run.folder / arm.stage / ARM, arm.record())


def check_claim(run: Run, arm: Arm) -> bool:
    """Return whether the arm's folder is reserved for this very arm.

    Raises:
        RunError: it is reserved for an arm with other settings, or the record of that is damaged.
    """
    path = run.folder / arm.stage / ARM
    if not path.exists():
        return False
    if read_record(path, ArmRecord, f"remove {path.parent} and run again") != arm.record():
        raise RunError(
            f"{path.parent}: an arm of this name was trained with other settings; remove it, or rename the new arm"
        )
    return True

"""The findings of a finished run as plain data, which the report shows."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .answers import Answer, answers_in, logits_of_net, mistakes, title_of
from .caveats import caveats
from .data import Split
from .evaluate import Scores, calibration_error, confusion, logits_of, majority
from .metrics import epoch_rows, training_seconds
from .recipe import write_recipe
from .records import NetRecord, TeacherRecord
from .run import LOGITS, PLAIN, STUDENT, Job, Run, load_student, teacher_stage

BINS, SAMPLES = 15, 24
PACKAGES = ("libkd-sdk", "torch", "torchvision", "timm", "numpy")

Floats = NDArray[np.float64]
Kind = Literal["teacher", "student", "plain"]


@dataclass(frozen=True)
class Stage:
    """A trained net.

    Attributes:
        stage: its folder in the run, which is also its key in `class_accuracy` and `answers`.
        name: what people call it.
        kind: a teacher, the student, or `plain`: the student without teachers.
        model: a short description of the net.
        parameters: the number of its parameters.
        seconds: how long all its epochs took together.
        bytes: the size of its folder.
        results: its scores on the validation and the test images.
        curve: `loss`, `validation_top1` and `lr` of every epoch; empty lists for a teacher that was not trained here.
    """

    stage: str
    name: str
    kind: Kind
    model: str
    parameters: int
    seconds: float
    bytes: int
    results: Scores
    curve: dict[str, list[float]]

    @property
    def title(self) -> str:
        """The name with the kind: `teacher conv`, `student`, `student without teachers`."""
        return title_of(self.stage)


@dataclass(frozen=True)
class Reliability:
    """The confidence and the accuracy, in bins of equal width from 0 to 1; a good net has both equal.

    Attributes:
        confidence, accuracy: the mean of each bin; NaN for an empty one.
        count: the number of images in each bin.
        ece: expected calibration error.
    """

    confidence: Floats
    accuracy: Floats
    count: NDArray[np.int64]
    ece: float


@dataclass(frozen=True)
class Sample:
    """A test image, uint8 [height, width, 3], its class, and the answer of each net by the net's stage."""

    name: str
    pixels: NDArray[np.uint8]
    label: int
    answers: dict[str, Answer]


@dataclass(frozen=True)
class Findings:
    """Everything that a report says about a run.

    Attributes:
        run: the name of its folder.
        labels: the class names.
        stages: the teachers in the recipe's order, the student, and the student without teachers if it is trained.
        confusion: counts of the student's answers on the test images, int64 [true class, answered class].
        class_accuracy: for each net by its stage, the share of each class's test images that it gets right, [classes];
            NaN for a class without test images.
        before, after: the student's reliability on the test images, at temperature 1 and at its own temperature.
        temperature: the student's temperature.
        samples: some test images: the mistakes that the student was most sure of, and as many images that it gets
            right, chosen by their ids.
        mode: the recipe's mode of the views.
        store_bytes, store_seconds: the size of the logit store and the time to fill it; None if nothing is stored, or
            if the time is not known.
        recipe: the recipe as TOML.
        data: the names of the sources.
        images: the number of images in each split.
        majority: the accuracy on the test and the validation images of a model that always answers their largest class.
        caveats: sentences on nets that learned nothing, and on classes with few test images.
        skipped: the images that could not be read, each with the reason.
        versions: the versions of what computed these findings.
    """

    run: str
    labels: tuple[str, ...]
    stages: tuple[Stage, ...]
    confusion: NDArray[np.int64]
    class_accuracy: dict[str, Floats]
    before: Reliability
    after: Reliability
    temperature: float
    samples: tuple[Sample, ...]
    mode: str
    store_bytes: int | None
    store_seconds: float | None
    recipe: str
    data: tuple[str, ...]
    images: dict[str, int]
    majority: dict[str, float]
    caveats: tuple[str, ...]
    skipped: tuple[str, ...]
    versions: dict[str, str]


def findings(job: Job) -> Findings:
    """Return the findings of a run whose student is finished.

    Raises:
        RunError: the student is not finished, or something in the folder is missing or damaged.
    """
    run, test = job.run, job.data.test
    student, labels, preprocessing = load_student(run)
    own = logits_of(student.to(job.device), test, preprocessing).cpu()
    teachers = map(teacher_stage, run.recipe.teachers)
    logits = {stage: logits_of_net(run, stage, test, job.device) for stage in teachers} | {STUDENT: own}
    if run.has(PLAIN):
        logits[PLAIN] = logits_of_net(run, PLAIN, test, job.device)
    truth, temperature, about = test.labels.cpu(), student.temperature.item(), run.data_record()
    store, stages = run.folder / LOGITS, _stages(run)
    scores = {stage.title: stage.results["test"] for stage in stages}
    return Findings(
        run=run.folder.resolve().name,
        labels=labels,
        stages=stages,
        confusion=confusion(own.argmax(-1), truth, len(labels)).numpy(),
        class_accuracy={stage: _class_accuracy(answers, truth, len(labels)) for stage, answers in logits.items()},
        before=_reliability((own * temperature).softmax(-1), truth),
        after=_reliability(own.softmax(-1), truth),
        temperature=temperature,
        samples=_samples(test, logits),
        mode=run.recipe.views.mode,
        store_bytes=_bytes_in(store) if store.exists() else None,
        store_seconds=training_seconds(run.folder, LOGITS) or None,
        recipe=write_recipe(run.recipe),
        data=about.data,
        images=about.images,
        majority={"test": majority(truth), "validation": majority(job.data.validation.labels)},
        caveats=tuple(caveats(scores, labels, truth.bincount(minlength=len(labels)).tolist())),
        skipped=about.skipped,
        versions=_versions(job.device),
    )


def _stages(run: Run) -> tuple[Stage, ...]:
    teachers = [
        _stage(run, teacher_stage(name), name, "teacher", run.teacher_record(name)) for name in run.recipe.teachers
    ]
    students = [_stage(run, STUDENT, "student", "student", run.student_record())]
    if run.has(PLAIN):
        students.append(_stage(run, PLAIN, "plain", "plain", run.student_record(PLAIN)))
    return (*teachers, *students)


def _stage(run: Run, stage: str, name: str, kind: Kind, record: NetRecord) -> Stage:
    rows = epoch_rows(run.folder, stage)
    return Stage(
        stage=stage,
        name=name,
        kind=kind,
        model=_model(record),
        parameters=record.parameters,
        seconds=record.seconds,
        bytes=_bytes_in(run.folder / stage),
        results=record.results,
        curve={
            "loss": [row.loss for row in rows],
            "validation_top1": [row.validation_top1 for row in rows],
            "lr": [row.lr for row in rows],
        },
    )


def _model(record: NetRecord) -> str:
    if isinstance(record, TeacherRecord):
        return record.model
    if record.student.model:
        return record.student.model
    return f"transformer, {record.student.depth} blocks of {record.student.width}"


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _class_accuracy(logits: Tensor, truth: Tensor, classes: int) -> Floats:
    return _means((logits.argmax(-1) == truth).double(), truth, classes)


def _means(values: Tensor, groups: Tensor, count: int) -> Floats:
    """Return the mean of each group's values, NaN for an empty group."""
    sums = torch.bincount(groups, values, minlength=count)
    means: Floats = (sums / torch.bincount(groups, minlength=count)).numpy()
    return means


def _reliability(probabilities: Tensor, truth: Tensor) -> Reliability:
    """Return the reliability, in the bins of `calibration_error`."""
    confidence, answer = probabilities.max(-1)
    bin_of = (confidence * BINS).long().clamp(max=BINS - 1)
    return Reliability(
        confidence=_means(confidence.double(), bin_of, BINS),
        accuracy=_means((answer == truth).double(), bin_of, BINS),
        count=torch.bincount(bin_of, minlength=BINS).numpy(),
        ece=calibration_error(probabilities, truth, BINS),
    )


def _samples(test: Split, logits: Mapping[str, Tensor]) -> tuple[Sample, ...]:
    """Return some test images: first the most confident mistakes of the student, then right ones, chosen by their ids.

    There are more of the one kind if there are too few of the other.
    """
    missed = mistakes(logits[STUDENT], test.labels)
    wrong = set(missed)
    right = [index for index in test.ids.argsort().tolist() if index not in wrong]
    shown = missed[: max(SAMPLES // 2, SAMPLES - len(right))]
    chosen = [*shown, *right[: SAMPLES - len(shown)]]
    answers = {stage: answers_in(rows[chosen]) for stage, rows in logits.items()}
    pixels = test.pixels()
    return tuple(
        Sample(
            name=test.names[index],
            pixels=pixels[index].cpu().numpy(),
            label=int(test.labels[index]),
            answers={stage: given[number] for stage, given in answers.items()},
        )
        for number, index in enumerate(chosen)
    )


def _versions(device: torch.device) -> dict[str, str]:
    """Return the versions of the packages that are installed, of Python, and the device."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return found | {"device": f"{device.type}, {where}"}

"""What a finished run found, as plain data: what its report shows, and nothing of how."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .checkpoint import read_json
from .data import Dataset, Split
from .evaluate import calibration_error, confusion, logits_of
from .metrics import rows as metric_rows
from .metrics import training_seconds
from .run import ABOUT, RECIPE, Run, load_student, load_teacher
from .train import plain_arm

BINS, SAMPLES = 15, 24
STORE = "logits"
PACKAGES = ("libkd-sdk", "torch", "torchvision", "timm", "numpy")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stage:
    """A trained net.

    Attributes:
        stage: where it is kept in the run's folder, which is also its key in `class_accuracy` and `answers`.
        name, model: what it is called, and what it is, for people. `plain` is the student without teachers.
        seconds: of all its epochs together.
        bytes: of its folder.
        results: of `validation` and `test`: `top1`, `nll`, `ece`.
        curve: `loss`, `validation_top1` and `lr` of every epoch; empty lists for a teacher that was taken as it is.
    """

    stage: str
    name: str
    kind: Literal["teacher", "student", "plain"]
    model: str
    parameters: int
    seconds: float
    bytes: int
    results: dict[str, dict[str, float]]
    curve: dict[str, list[float]]


@dataclass(frozen=True)
class Reliability:
    """Is a confidence of 0.8 right 8 times in 10? In bins of equal width from 0 to 1.

    Attributes:
        confidence, accuracy: the mean of each bin; NaN where it is empty.
        count: pictures in each bin.
        ece: expected calibration error.
    """

    confidence: Floats
    accuracy: Floats
    count: NDArray[np.int64]
    ece: float


class Answer(NamedTuple):
    """The class that a net gives a picture, and with which probability."""

    label: int
    confidence: float


@dataclass(frozen=True)
class Sample:
    """A test picture, uint8 [height, width, 3], its class, and what each net takes it for, by its stage."""

    name: str
    pixels: NDArray[np.uint8]
    label: int
    answers: dict[str, Answer]


@dataclass(frozen=True)
class Findings:
    """All that a report tells of a run.

    Attributes:
        run: its folder's name.
        stages: teachers in the recipe's order, the student, and the plain one if it is trained.
        confusion: counts of the student on the test pictures, int64 [true class, answered class].
        class_accuracy: share of each class of the test pictures that a net gets right, [classes] by the net's stage;
            NaN for a class without any.
        before, after: the student's confidence on the test pictures, at temperature 1 and at its own.
        samples: test pictures chosen by their ids, as many wrong as right where there are enough.
        mode: of the views, as in the recipe.
        store_bytes, store_seconds: of the stored answers; None where nothing is stored, or nobody wrote it down.
        recipe: TOML.
        data: names of the sources; `pictures`: how many in each split; `skipped`: what could not be read, and why.
        versions: of what computed these findings.
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
    pictures: dict[str, int]
    skipped: tuple[str, ...]
    versions: dict[str, str]


def findings(run: Run, data: Dataset, device: torch.device) -> Findings:
    """What there is to tell of a run whose student is finished; `data` is the run's own.

    Raises:
        RunError: the student is not finished, or a net is missing or damaged.
    """
    student, labels, preprocessing = load_student(run.folder)
    own = logits_of(student.to(device), data.test, preprocessing).cpu()
    logits = {f"teachers/{name}": _teacher_logits(run, name, data.test, device).cpu() for name in run.recipe.teachers}
    logits["student"] = own
    truth, temperature = data.test.labels.cpu(), student.temperature.item()
    about = read_json(run.folder / ABOUT)
    return Findings(
        run=run.folder.resolve().name,
        labels=labels,
        stages=_stages(run),
        confusion=confusion(own.argmax(-1), truth, len(labels)).numpy(),
        class_accuracy={stage: _class_accuracy(answers, truth, len(labels)) for stage, answers in logits.items()},
        before=_reliability((own * temperature).softmax(-1), truth),
        after=_reliability(own.softmax(-1), truth),
        temperature=temperature,
        samples=_samples(data.test, logits),
        mode=run.recipe.views.mode,
        store_bytes=_bytes_in(run.folder / STORE) if (run.folder / STORE).exists() else None,
        store_seconds=training_seconds(run.folder, STORE) or None,
        recipe=(run.folder / RECIPE).read_text(encoding="utf-8"),
        data=tuple(about["data"]),
        pictures=about["pictures"],
        skipped=tuple(about["skipped"]),
        versions=_versions(device),
    )


def _teacher_logits(run: Run, name: str, split: Split, device: torch.device) -> Tensor:
    """A teacher's answers for whole, untouched pictures."""
    teacher = load_teacher(run, name).to(device)
    return logits_of(teacher.net, split, teacher.preprocessing)


def _stages(run: Run) -> tuple[Stage, ...]:
    rows = metric_rows(run.folder)
    teachers = [
        _stage(run, rows, f"teachers/{name}", name, "teacher", teacher.model)
        for name, teacher in run.recipe.teachers.items()
    ]
    shape = run.recipe.student
    model = f"transformer, {shape.depth} blocks of {shape.width}"
    students = [_stage(run, rows, "student", "student", "student", model)]
    plain = plain_arm(run).stage
    if run.has(plain):
        students.append(_stage(run, rows, plain, "plain", "plain", model))
    return (*teachers, *students)


def _stage(
    run: Run,
    rows: Iterable[Mapping[str, Any]],
    stage: str,
    name: str,
    kind: Literal["teacher", "student", "plain"],
    model: str,
) -> Stage:
    config = run.config(stage)
    own = [row for row in rows if row["stage"] == stage]
    return Stage(
        stage=stage,
        name=name,
        kind=kind,
        model=model,
        parameters=config["parameters"],
        seconds=config["seconds"],
        bytes=_bytes_in(run.folder / stage),
        results=config["results"],
        curve={figure: [row[figure] for row in own] for figure in ("loss", "validation_top1", "lr")},
    )


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _class_accuracy(logits: Tensor, truth: Tensor, classes: int) -> Floats:
    return _means((logits.argmax(-1) == truth).double(), truth, classes)


def _means(values: Tensor, groups: Tensor, count: int) -> Floats:
    """The mean of each group's values, NaN for one without any."""
    sums = torch.bincount(groups, values, minlength=count)
    return (sums / torch.bincount(groups, minlength=count)).numpy()


def _reliability(probabilities: Tensor, truth: Tensor) -> Reliability:
    """In the bins of `calibration_error`."""
    confidence, answer = probabilities.max(-1)
    bin_of = (confidence * BINS).long().clamp(max=BINS - 1)
    return Reliability(
        confidence=_means(confidence.double(), bin_of, BINS),
        accuracy=_means((answer == truth).double(), bin_of, BINS),
        count=torch.bincount(bin_of, minlength=BINS).numpy(),
        ece=calibration_error(probabilities, truth, BINS),
    )


def _samples(test: Split, logits: Mapping[str, Tensor]) -> tuple[Sample, ...]:
    """A few pictures, the same in every run on this data but for what the student gets wrong: those go first."""
    answers = {stage: rows.softmax(-1).max(-1) for stage, rows in logits.items()}
    wrong = (answers["student"].indices != test.labels.cpu()).tolist()
    by_id = test.ids.argsort().tolist()
    missed, right = ([index for index in by_id if wrong[index] is is_wrong] for is_wrong in (True, False))
    shown = missed[: max(SAMPLES // 2, SAMPLES - len(right))]
    return tuple(
        Sample(
            name=test.names[index],
            pixels=test.pixels()[index].cpu().numpy(),
            label=int(test.labels[index]),
            answers={
                stage: Answer(int(best.indices[index]), float(best.values[index])) for stage, best in answers.items()
            },
        )
        for index in (*shown, *right[: SAMPLES - len(shown)])
    )


def _versions(device: torch.device) -> dict[str, str]:
    """Of those that pip knows; a checkout on the path alone is not among them."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return found | {"device": f"{device.type}, {where}"}

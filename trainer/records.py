"""The typed records that are kept as JSON in a run's folder.

data.json               DataRecord: the data of the run, and the recipe that it started with
teachers/*/config.json  TeacherRecord: a trained teacher
student/config.json     StudentRecord: a trained student; the same in arms/*/config.json
student/arm.json        ArmRecord: the settings of an arm; the same in arms/*/arm.json
metrics.jsonl           an EpochRow for each epoch of a net, a StoreRow for each pass that filled a logit store
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sdk.files import read_regular, write_whole

from .data import Preprocessing
from .errors import RunError
from .evaluate import Scores
from .recipe import Recipe, StudentRecipe, ViewsRecipe
from .units import size

AnyRecord = TypeVar("AnyRecord", bound=msgspec.Struct)

MAX_BYTES = 2**27
"""A larger file is not a record."""


class TeacherRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A trained teacher.

    Attributes:
        model, args: the timm name and the further arguments of the net.
        classes: the number of classes that it tells apart.
        preprocessing: how images become its input.
        parameters: the number of its parameters.
        seconds: how long all its epochs took together.
        results: its scores on the validation and the test images.
    """

    model: str
    args: dict[str, Any]
    classes: int
    preprocessing: Preprocessing
    parameters: int
    seconds: float
    results: Scores


class StudentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A trained student.

    Attributes:
        labels: the class names, in the order of the logits.
        preprocessing: how images become its input.
        student: its shape and its loss.
        parameters: the number of its parameters.
        temperature: the temperature that divides its logits, fitted on validation data; 1 if these do not show that
            it helps.
        ece_before_temperature: its calibration error on the test images at temperature 1.
        teachers: the names of the teachers that it learned from.
        seconds: how long all its epochs took together.
        results: its scores on the validation and the test images.
    """

    labels: tuple[str, ...]
    preprocessing: Preprocessing
    student: StudentRecipe
    parameters: int
    temperature: float
    ece_before_temperature: float
    teachers: tuple[str, ...]
    seconds: float
    results: Scores


NetRecord = TeacherRecord | StudentRecord


class DataRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The data of a run.

    Attributes:
        hash: a hash of all images, labels and splits.
        test_hash: the hash of the test images; None in runs of versions that did not keep it.
        data, root, unlabelled, skip_bad: where the images come from; see `trainer.run.Source`.
        labels: the class names.
        images: the number of images in each split.
        skipped: the images that could not be read, each with the reason.
        threads: torch's number of threads when the run began. Another number gives other bits of the weights.
        recipe: the recipe that the run started with. `recipe.toml` is its copy for people.
    """

    hash: str
    test_hash: str | None = None
    data: tuple[str, ...]
    root: str | None
    unlabelled: tuple[str, ...] = ()
    skip_bad: bool = False
    labels: tuple[str, ...]
    images: dict[str, int]
    skipped: tuple[str, ...]
    threads: int | None = None
    recipe: Recipe


class ArmRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that tells an arm from the other arms of its run; see `trainer.arms.Arm`."""

    teachers: tuple[str, ...]
    unlabelled: bool
    views: ViewsRecipe
    student: StudentRecipe


class EpochRow(msgspec.Struct, frozen=True, kw_only=True):
    """One epoch in the training of a net.

    Attributes:
        stage: the net, such as `teachers/conv` or `student`.
        epoch: counted from 0.
        loss: the mean loss of the epoch.
        validation_top1: the accuracy on the validation images after the epoch.
        lr: the learning rate of the last step.
        seconds: how long the training steps took.
        samples_per_second: how many images were trained on per second.
    """

    stage: str
    epoch: int
    loss: float
    validation_top1: float
    lr: float
    seconds: float
    samples_per_second: float


class StoreRow(msgspec.Struct, frozen=True, kw_only=True):
    """One pass that filled a logit store.

    Attributes:
        stage: the store's folder.
        units, answers: how many units of the store, and how many answers (images times teachers), were computed.
        seconds: how long that took.
    """

    stage: str
    units: int
    answers: int
    seconds: float


Row = EpochRow | StoreRow


def to_json(record: msgspec.Struct, *, indent: int | None = 2) -> str:
    """Return a record as JSON. All characters are escaped to ASCII: a file's name may hold bytes that are not UTF-8."""
    return json.dumps(msgspec.to_builtins(record), indent=indent) + "\n"


def write_record(path: Path, record: msgspec.Struct) -> None:
    """Write a record as a JSON file that is whole or absent.

    Raises:
        FileError: the disk is full, or the folder can't be written.
    """
    write_whole(path, to_json(record))


def read_record(path: Path, kind: type[AnyRecord], fix: str) -> AnyRecord:
    """Return the record in a JSON file.

    Args:
        fix: what to do if the file can't be used, as the end of the error's message.

    Raises:
        RunError: the file is missing, damaged, or not such a record.
    """
    try:
        return msgspec.convert(json.loads(read_limited(path).decode()), kind)
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as fault:
        raise RunError(f"{path}: missing or damaged ({fault}); {fix}") from fault


def read_limited(path: Path) -> bytes:
    """Return the content of a file that is no larger than a record can be.

    Raises:
        OSError, ValueError: it is missing, is not a regular file, or is larger.
    """
    content = read_regular(path, MAX_BYTES)
    if content is None:
        raise ValueError(f"larger than {size(MAX_BYTES)}")
    return content

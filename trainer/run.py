"""A run's folder: its recipe, its data, and its trained nets.

recipe.toml             the recipe with all values
data.json               the data: its hash, where it came from, what was skipped
teachers/NAME/          model.safetensors, config.json
logits/                 the logit store
student/                the student: model.safetensors, config.json
arms/NAME/              students that it is compared with: `plain`, which has no teachers, and others
metrics.jsonl           every epoch of every stage; tensorboard/ holds the same as curves
report.html             the report
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from sdk.files import write_whole

from .checkpoint import write_tensors
from .data import Dataset, Preprocessing
from .errors import RunError
from .models import Student, Teacher, create_student, create_teacher
from .progress import Progress
from .recipe import Recipe, Training, read_recipe, write_recipe
from .records import AnyRecord, DataRecord, NetRecord, StudentRecord, TeacherRecord, read_record, write_record

RECIPE, ABOUT, REPORT = "recipe.toml", "data.json", "report.html"
CONFIG, WEIGHTS, CHECKPOINT = "config.json", "model.safetensors", "checkpoint.safetensors"

STUDENT = "student"
LOGITS = "logits"

Net = TypeVar("Net", bound=nn.Module)


def teacher_stage(name: str) -> str:
    """Return the stage of a teacher: its folder in the run."""
    return f"teachers/{name}"


def arm_stage(name: str) -> str:
    """Return the stage of a student that the run's own student is compared with."""
    return f"arms/{name}"


def other_store(key: str) -> str:
    """Return the folder of a logit store for other views or images than those of the run's own student."""
    return f"{LOGITS}-{key}"


PLAIN = arm_stage("plain")
"""The stage of the student without teachers."""


def recipe_table(stage: str) -> str:
    """Return the name of the recipe's table for a net: `teachers.NAME`, or `student` for every student."""
    return stage.replace("/", ".") if stage.startswith(teacher_stage("")) else STUDENT


class Source(NamedTuple):
    """The source of a run's images, as `trainer.data.load` takes it.

    Attributes:
        data: folders, archives, or the name of a dataset.
        root: the folder of a named dataset.
        unlabelled: folders and archives of images without labels.
    """

    data: tuple[str, ...]
    root: Path | None = None
    unlabelled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A run's folder, and the recipe that it follows."""

    folder: Path
    recipe: Recipe

    def has(self, stage: str) -> bool:
        """Return whether the training of a net is finished. `stage` is its folder: `teachers/NAME`, `student`, ..."""
        return (self.folder / stage / CONFIG).exists()

    def teacher_record(self, name: str) -> TeacherRecord:
        """Return the record of a trained teacher.

        Raises:
            RunError: it is missing or damaged.
        """
        return self._record(teacher_stage(name), TeacherRecord)

    def student_record(self, stage: str = STUDENT) -> StudentRecord:
        """Return the record of a trained student, the run's own or another one.

        Raises:
            RunError: it is missing or damaged.
        """
        return self._record(stage, StudentRecord)

    def net_record(self, stage: str) -> NetRecord:
        """Return the record of any trained net.

        Raises:
            RunError: it is missing or damaged.
        """
        if stage.startswith(teacher_stage("")):
            return self._record(stage, TeacherRecord)
        return self._record(stage, StudentRecord)

    def net_records(self) -> dict[str, NetRecord]:
        """Return the records of the trained nets by stage: teachers, the student, and the student without teachers."""
        stages = (*map(teacher_stage, self.recipe.teachers), STUDENT, PLAIN)
        return {stage: self.net_record(stage) for stage in stages if self.has(stage)}

    def data_record(self) -> DataRecord:
        """Return the record of the run's data.

        Raises:
            RunError: it is missing or damaged.
        """
        return _data_record(self.folder)

    def keep(self, stage: str, model: nn.Module, record: NetRecord) -> None:
        """Keep a trained net. From then on, `has(stage)` is true."""
        write_tensors(self.folder / stage / WEIGHTS, model.state_dict())
        write_record(self.folder / stage / CONFIG, record)
        (self.folder / stage / CHECKPOINT).unlink(missing_ok=True)

    def load_into(self, stage: str, model: Net) -> Net:
        """Load the weights of a trained net into `model`, and return it in evaluation mode.

        Raises:
            RunError: the weights are missing, damaged, or have other shapes.
        """
        path = self.folder / stage / WEIGHTS
        try:
            model.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as fault:
            raise RunError(f"{path}: missing or damaged ({fault}); {_train_again(path)}") from fault
        return model.eval()

    def _record(self, stage: str, kind: type[AnyRecord]) -> AnyRecord:
        path = self.folder / stage / CONFIG
        return read_record(path, kind, _train_again(path))


def _train_again(path: Path) -> str:
    return f"remove {path.parent} and run again"


@dataclass(frozen=True)
class Job:
    """A run together with everything that work on it needs.

    Attributes:
        run: the folder and the recipe.
        data: the run's data.
        device: where the nets are trained.
        progress: follows the work.
    """

    run: Run
    data: Dataset
    device: torch.device
    progress: Progress


def start_run(folder: Path, recipe: Recipe, data: Dataset, source: Source) -> Run:
    """Return the run in `folder`: a new one, or the one that is there if it has the same recipe and data.

    Raises:
        RunError: the folder holds something else, or its name is not UTF-8.
        RecipeError: the recipe's nets can't be created.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError as fault:  # TensorBoard could not open it
        raise RunError(f"{folder}: the path of a run is not UTF-8; choose another --out") from fault
    recipe = _settled(recipe, data)
    if (folder / ABOUT).exists():
        return _continued(Run(folder, recipe), data)
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder}: not empty, but not a run either; choose another --out")
    # Find out whether the nets can be created before anything is written.
    create_student(recipe.student, len(recipe.teachers), len(data.labels), data.preprocessing)
    for teacher in recipe.teachers.values():
        create_teacher(teacher, len(data.labels), data.preprocessing)
    about = DataRecord(
        hash=data.hash(),
        data=tuple(map(_lasting, source.data)),
        root=_lasting(str(source.root)) if source.root else None,
        unlabelled=tuple(map(_lasting, source.unlabelled)),
        labels=data.labels,
        images=image_counts(data),
        skipped=tuple(data.skipped),
    )
    write_whole(folder / RECIPE, write_recipe(recipe))
    write_record(folder / ABOUT, about)
    return Run(folder, recipe)


def _continued(run: Run, data: Dataset) -> Run:
    """Return the run that is in the folder already, if it has this recipe and this data."""
    found = run.data_record()
    if found.hash != data.hash():
        raise RunError(f"{run.folder}: this run belongs to other data ({', '.join(found.data)}); choose another --out")
    if other := _differences(read_recipe(run.folder / RECIPE), run.recipe):
        raise RunError(
            f"{run.folder}: this run follows another recipe (it differs in {', '.join(other)}); choose another --out"
        )
    return run


def _data_record(folder: Path) -> DataRecord:
    return read_record(folder / ABOUT, DataRecord, "start a new run in another folder")


def image_counts(data: Dataset) -> dict[str, int]:
    """Return the number of images in each split."""
    splits = {"train": data.train, "unlabelled": data.unlabelled, "validation": data.validation, "test": data.test}
    return {name: len(split) for name, split in splits.items() if split is not None}


def _settled(recipe: Recipe, data: Dataset) -> Recipe:
    """Return the recipe with the values that the data decides, and with paths that are valid in any folder."""
    replace = msgspec.structs.replace
    teachers = {
        name: replace(teacher, weights=_lasting(teacher.weights)) if teacher.weights else teacher
        for name, teacher in recipe.teachers.items()
    }
    settled = replace(recipe.data, size=data.preprocessing.input.height)
    return replace(recipe, data=settled, teachers=teachers)


def _lasting(name: str) -> str:
    """Return an absolute path for the name of a file or folder, and the name of a dataset unchanged."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def remembered_source(folder: Path) -> Source | None:
    """Return where the images of the run in `folder` came from, or None if there is no run.

    Raises:
        RunError: the run's data.json is damaged.
    """
    if not (folder / ABOUT).exists():
        return None
    about = _data_record(folder)
    return Source(about.data, Path(about.root) if about.root else None, about.unlabelled)


def open_run(folder: Path) -> Run:
    """Return the run in `folder`.

    Raises:
        RunError: there is no run.
    """
    if not (folder / RECIPE).is_file():
        raise RunError(f"{folder}: no run there; `libkd-sdk distill --data IMAGES --out {folder}` makes one")
    return Run(folder, read_recipe(folder / RECIPE))


def _differences(one: object, other: object, path: str = "") -> list[str]:
    """Return the dotted keys in which two recipes differ."""
    one, other = msgspec.to_builtins(one), msgspec.to_builtins(other)
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        return [
            found for key in keys for found in _differences(one.get(key), other.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if one == other else [path]


def load_teacher(run: Run, name: str) -> Teacher:
    """Return a trained teacher in evaluation mode.

    Raises:
        RunError: the teacher is not trained, or what was kept of it is damaged.
    """
    stage = teacher_stage(name)
    if not run.has(stage):
        raise RunError(
            f"{run.folder}: teacher {name!r} is not trained; `libkd-sdk teach {name} --out {run.folder}` trains it"
        )
    record = run.teacher_record(name)
    bare = msgspec.structs.replace(run.recipe.teachers[name], pretrained=False, weights=None, training=Training())
    net = create_teacher(bare, record.classes, record.preprocessing).net
    return Teacher(run.load_into(stage, net), record.preprocessing, run.recipe.teachers[name].training.precision)


def load_student(run: Run | str | Path, stage: str = STUDENT) -> tuple[Student, tuple[str, ...], Preprocessing]:
    """Return a trained student, its class names, and its preprocessing: what `sdk.export` takes.

    Args:
        run: a run or its folder.
        stage: `student`, or `arms/NAME` for a student that it was compared with.

    Raises:
        RunError: there is no finished student in that folder, or what was kept of it is damaged.
    """
    opened = run if isinstance(run, Run) else open_run(Path(run))
    if not opened.has(stage):
        raise RunError(
            f"{opened.folder}: no finished {stage} there; "
            f"run `libkd-sdk distill --out {opened.folder}` again, it continues"
        )
    record = opened.student_record(stage)
    student = create_student(record.student, len(opened.recipe.teachers), len(record.labels), record.preprocessing)
    return opened.load_into(stage, student), record.labels, record.preprocessing

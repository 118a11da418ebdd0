"""A run's folder: its recipe, its data, and its trained nets.

data.json               the data: its hash, where it came from, what was skipped; and the recipe
recipe.toml             the recipe with all values, for people
teachers/NAME/          model.safetensors, config.json
logits/                 the logit store
student/                the student: model.safetensors, config.json
arms/NAME/              students that it is compared with: `plain`, which has no teachers, and others
metrics.jsonl           every epoch of every stage; tensorboard/ holds the same as curves
report.html             the report
.lock                   is there while somebody works on the run
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import torch
from torch import Tensor, nn

from sdk.files import disk_failures, sha256, write_whole

from .data import Dataset, Preprocessing, is_command, lasting
from .errors import RecipeError, RunError
from .folder import RECIPE, is_new, refuse_odd_path
from .models import Student, Teacher, check_nets, create_student, create_teacher
from .progress import Progress
from .recipe import Recipe, differences, read_recipe, write_recipe
from .records import (
    AnyRecord,
    DataRecord,
    NetRecord,
    StudentRecord,
    TeacherRecord,
    read_limited,
    read_record,
    to_json,
    write_record,
)
from .tensors import TensorFile

ABOUT, REPORT = "data.json", "report.html"
CONFIG, WEIGHTS, CHECKPOINT, ARM = "config.json", "model.safetensors", "checkpoint.safetensors", "arm.json"

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


PLAIN = arm_stage("plain")  # the student without teachers


def recipe_table(stage: str) -> str:
    """Return the name of the recipe's table for a net: `teachers.NAME`, or `student` for every student."""
    return stage.replace("/", ".") if stage.startswith(teacher_stage("")) else STUDENT


class Source(NamedTuple):
    """The source of a run's images: the arguments of `trainer.data.load`, which explains them."""

    data: tuple[str, ...]
    root: Path | None = None
    unlabelled: tuple[str, ...] = ()
    skip_bad: bool = False


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

    def weights(self, stage: str) -> TensorFile:
        """Return the file of a net's weights, which need not exist."""
        path = self.folder / stage / WEIGHTS
        return TensorFile(path, f"the weights of {stage} in run {self.recipe.hash()}", _train_again(path))

    def checkpoint(self, stage: str) -> TensorFile:
        """Return the file of an unfinished training, which need not exist."""
        path = self.folder / stage / CHECKPOINT
        return TensorFile(path, f"the unfinished {stage} in run {self.recipe.hash()}", "remove it and run again")

    def keep(self, stage: str, model: nn.Module, record: NetRecord) -> None:
        """Keep a trained net. From then on, `has(stage)` is true.

        Raises:
            FileError: the disk is full, or the folder can't be written.
        """
        text, unfinished = to_json(record), self.checkpoint(stage).path
        self.weights(stage).write(model.state_dict(), record=sha256(text.encode()))
        write_whole(self.folder / stage / CONFIG, text)
        with disk_failures(unfinished):
            unfinished.unlink(missing_ok=True)

    def kept_weights(self, stage: str) -> dict[str, Tensor]:
        """Return the weights of a trained net.

        Raises:
            RunError: they are missing or damaged, or its record is not the one that was kept with them.
        """
        file, record = self.weights(stage), self.folder / stage / CONFIG
        tensors, facts = file.read()
        try:
            found = sha256(read_limited(record))
        except (OSError, ValueError) as fault:
            raise RunError(f"{record}: missing or damaged ({fault}); {file.remedy}") from fault
        if found != facts.get("record"):
            raise RunError(f"{record}: missing or damaged (not the one of {WEIGHTS}); {file.remedy}")
        return tensors

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
        RunError: the folder holds something else, another recipe or other data, or its path is not UTF-8.
        RecipeError: the recipe's nets can't be created.
        FileError: the folder can't be written.
    """
    refuse_odd_path(folder)
    recipe, data_hash = _settled(recipe, data), data.hash()
    if not is_run(folder):
        if not is_new(folder):
            raise RunError(f"{folder}: not empty, but not a run either; choose another --out")
        check_nets(recipe, len(data.labels), data.preprocessing)  # or fail before anything is written
        about = DataRecord(
            hash=data_hash,
            test_hash=data.test.hash(),
            data=tuple(map(lasting, source.data)),
            root=lasting(str(source.root)) if source.root else None,
            unlabelled=tuple(map(lasting, source.unlabelled)),
            skip_bad=source.skip_bad,
            labels=data.labels,
            images=image_counts(data),
            skipped=tuple(data.skipped),
            threads=torch.get_num_threads(),
            recipe=recipe,
        )
        write_whole(folder / RECIPE, write_recipe(recipe))
        write_record(folder / ABOUT, about)  # from then on, it is a run
    run, about = open_run(folder), _data_record(folder)
    changed = ", ".join(differences(run.recipe, recipe))
    causes = [f"belongs to other data ({', '.join(about.data)})"] if about.hash != data_hash else []
    causes += [f"follows another recipe (it differs in {changed})"] if changed else []
    if causes:  # another size, for example, makes other pixels of the same files
        raise RunError(f"{folder}: this run {', or '.join(causes)}; choose another --out")
    if not (folder / RECIPE).exists():
        write_whole(folder / RECIPE, write_recipe(run.recipe))
    return run


def is_run(folder: Path) -> bool:
    """Return whether there is a run in `folder`."""
    return (folder / ABOUT).exists()


def _data_record(folder: Path) -> DataRecord:
    return read_record(folder / ABOUT, DataRecord, "start a new run in another folder")


def image_counts(data: Dataset) -> dict[str, int]:
    """Return the number of images in each split."""
    splits = {"train": data.train, "unlabelled": data.unlabelled, "validation": data.validation, "test": data.test}
    return {name: len(split) for name, split in splits.items() if split is not None}


def _settled(recipe: Recipe, data: Dataset) -> Recipe:
    """Return the recipe with the values that the data decides, and with paths that are valid in any folder."""
    replace = msgspec.structs.replace
    teachers = {name: replace(it, weights=it.weights and lasting(it.weights)) for name, it in recipe.teachers.items()}
    weights = recipe.student.weights
    student = replace(recipe.student, weights=weights and lasting(weights))
    data_recipe = replace(recipe.data, size=data.preprocessing.input.height)
    return replace(recipe, data=data_recipe, teachers=teachers, student=student)


def remembered_source(folder: Path) -> Source | None:
    """Return where the images of the run in `folder` came from, or None if there is no run.

    Raises:
        RunError: the run's data.json is damaged, or the images come from a command.
    """
    if not is_run(folder):
        return None
    about = _data_record(folder)
    if command := next(filter(is_command, (*about.data, *about.unlabelled)), None):
        raise RunError(
            f"{folder}: its images come from a command ({command}), which is not run because a folder says so; "
            "name the images again by --data"
        )
    return Source(about.data, Path(about.root) if about.root else None, about.unlabelled, about.skip_bad)


def open_run(folder: Path) -> Run:
    """Return the run in `folder`, with the recipe that it started with.

    Raises:
        RunError: there is no run, it is damaged, or its recipe.toml was edited.
    """
    if not is_run(folder):
        raise RunError(f"{folder}: no run there; `libkd-sdk distill --data IMAGES --out {folder}` makes one")
    recipe, copy = _data_record(folder).recipe, folder / RECIPE
    if copy.exists():
        fix = "remove the file, it is written again; another recipe needs another --out"
        try:
            other = differences(recipe, read_recipe(copy))
        except RecipeError as fault:
            raise RunError(f"{fault}; {fix}") from fault
        if other:
            changes = ", ".join(f"{key} = {now}, was {was}" for key, (was, now) in other.items())
            raise RunError(f"{copy}: edited since the run began ({changes}); {fix}")
    return Run(folder, recipe)


def _loaded(model: Net, weights: dict[str, Tensor], file: TensorFile) -> Net:
    try:
        model.load_state_dict(weights)
    except RuntimeError as fault:  # another version of timm may have other names
        raise file.refusal(str(fault)) from fault
    return model.eval()


def load_teacher(run: Run, name: str) -> Teacher:
    """Return a trained teacher in evaluation mode.

    Raises:
        RunError: there is no such teacher, it is not trained, or what was kept of it is damaged.
    """
    if name not in run.recipe.teachers:
        raise RunError(f"{run.folder}: no teacher {name!r}; it has {', '.join(run.recipe.teachers) or 'none'}")
    stage = teacher_stage(name)
    if not run.has(stage):
        raise RunError(
            f"{run.folder}: teacher {name!r} is not trained; `libkd-sdk teach {name} --out {run.folder}` trains it"
        )
    weights, record = run.kept_weights(stage), run.teacher_record(name)
    bare = run.recipe.teachers[name].from_scratch()
    net = _loaded(create_teacher(bare, record.classes, record.preprocessing).net, weights, run.weights(stage))
    return Teacher(net, record.preprocessing, run.recipe.teachers[name].training.precision)


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
    weights, record = opened.kept_weights(stage), opened.student_record(stage)
    shape, teachers = record.student.from_scratch(), len(opened.recipe.teachers)
    student = create_student(shape, teachers, len(record.labels), record.preprocessing)
    return _loaded(student, weights, opened.weights(stage)), record.labels, record.preprocessing

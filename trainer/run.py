"""A run's folder: what it is a run of, and the nets that it holds.

recipe.toml             the recipe, every value spelled out
data.json               which data: its hash, where it came from, what was skipped
teachers/NAME/          model.safetensors, config.json
logits/                 the store
student/                the student: model.safetensors, config.json
arms/NAME/              students to compare it with: `plain`, without teachers, and others
metrics.jsonl           every epoch of every stage; the same under tensorboard/
report.html             the page to look at
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from .checkpoint import read_json, write_tensors, write_text
from .data import Dataset, Preprocessing
from .errors import RecipeError, RunError
from .models import Student, Teacher, create_teacher
from .recipe import Recipe, StudentRecipe, Training, read_recipe, write_recipe

RECIPE, ABOUT = "recipe.toml", "data.json"
CONFIG, WEIGHTS, CHECKPOINT = "config.json", "model.safetensors", "checkpoint.safetensors"


class Source(NamedTuple):
    """Where a run's pictures come from: what `trainer.data.load` takes."""

    data: tuple[str, ...]
    root: Path | None = None
    unlabelled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A run's folder, and the recipe that it follows."""

    folder: Path
    recipe: Recipe

    def has(self, stage: str) -> bool:
        """Is the net of `stage` (`teachers/NAME`, `student`, `arms/NAME`) trained to its end?"""
        return (self.folder / stage / CONFIG).exists()

    def config(self, stage: str) -> dict[str, Any]:
        """What was written down about a trained net.

        Raises:
            RunError: it is not there.
        """
        return read_json(self.folder / stage / CONFIG)

    def keep(self, stage: str, model: nn.Module, config: dict[str, Any]) -> None:
        """Keep a trained net; from then on `has(stage)`."""
        write_tensors(self.folder / stage / WEIGHTS, model.state_dict())
        write_text(self.folder / stage / CONFIG, json.dumps(config, indent=2) + "\n")
        (self.folder / stage / CHECKPOINT).unlink(missing_ok=True)

    def load_into(self, stage: str, model: nn.Module) -> nn.Module:
        """Put a kept net's weights into `model`.

        Raises:
            RunError: they are missing, damaged, or of another shape.
        """
        path = self.folder / stage / WEIGHTS
        try:
            model.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as fault:
            raise RunError(f"{path}: missing or damaged ({fault}); remove {path.parent} and run again") from fault
        return model.eval()


def start_run(folder: Path, recipe: Recipe, data: Dataset, source: Source) -> Run:
    """The run in `folder`: a new one, or the one that is there, if it is of the same recipe and data.

    Raises:
        RunError: the folder holds something else.
        RecipeError: the recipe's nets can't be made.
    """
    recipe = _settled(recipe, data)
    if (folder / ABOUT).exists():
        found = read_json(folder / ABOUT)
        if found.get("hash") != data.hash():
            raise RunError(
                f"{folder}: this run belongs to other data ({', '.join(found.get('data', '?'))}); choose another --out"
            )
        other = _differences(read_recipe(folder / RECIPE), recipe)
        if other:
            raise RunError(
                f"{folder}: this run follows another recipe (it differs in {', '.join(other)}); choose another --out"
            )
        return Run(folder, recipe)
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder}: not empty, and no run; choose another --out")
    # Now, while nothing is written: what the recipe asks for can be made at all.
    create_student(recipe.student, len(recipe.teachers), len(data.labels), data.preprocessing)
    for teacher in recipe.teachers.values():
        create_teacher(teacher, len(data.labels), data.preprocessing)
    splits = {"train": data.train, "unlabelled": data.unlabelled, "validation": data.validation, "test": data.test}
    counts = {name: len(split) for name, split in splits.items() if split is not None}
    about = {
        "hash": data.hash(),
        "data": [_lasting(name) for name in source.data],
        "root": source.root and _lasting(str(source.root)),
        "unlabelled": [_lasting(name) for name in source.unlabelled],
        "labels": data.labels,
        "pictures": counts,
        "skipped": data.skipped,
    }
    write_text(folder / RECIPE, write_recipe(recipe))
    write_text(folder / ABOUT, json.dumps(about, indent=2) + "\n")
    return Run(folder, recipe)


def _settled(recipe: Recipe, data: Dataset) -> Recipe:
    """The recipe with what the data decides, and with paths that mean the same from another folder."""
    replace = msgspec.structs.replace
    teachers = {
        name: replace(teacher, weights=_lasting(teacher.weights)) if teacher.weights else teacher
        for name, teacher in recipe.teachers.items()
    }
    settled = replace(recipe.data, size=data.preprocessing.input.height)
    return replace(recipe, data=settled, teachers=teachers)


def _lasting(name: str) -> str:
    """A path that means the same from another folder; the name of a data set stays as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def remembered_source(folder: Path) -> Source | None:
    """Where the pictures of the run in `folder` came from; None if there is no run."""
    if not (folder / ABOUT).exists():
        return None
    about = read_json(folder / ABOUT)
    root = Path(about["root"]) if about["root"] else None
    return Source(tuple(about["data"]), root, tuple(about.get("unlabelled", ())))


def open_run(folder: Path) -> Run:
    """The run that is in `folder`.

    Raises:
        RunError: there is none.
    """
    if not (folder / RECIPE).is_file():
        raise RunError(f"{folder}: no run there; `libkd-sdk distill --data PICTURES --out {folder}` makes one")
    return Run(folder, read_recipe(folder / RECIPE))


def _differences(one: Any, other: Any, path: str = "") -> list[str]:
    """The dotted keys in which two recipes differ."""
    one, other = msgspec.to_builtins(one), msgspec.to_builtins(other)
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        return [
            found for key in keys for found in _differences(one.get(key), other.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if one == other else [path]


def create_student(shape: StudentRecipe, teachers: int, classes: int, preprocessing: Preprocessing) -> Student:
    """An untrained student with a bias token for each of so many teachers.

    Raises:
        RecipeError: the pictures do not divide into patches, or the tokens do not suit the teachers.
    """
    size = preprocessing.input.height
    if shape.tokens == "learned" and shape.stem == "patch" and size % shape.patch:
        raise RecipeError(
            f"pictures of {size} pixels do not divide into patches of {shape.patch}; "
            f"set data.size to {max(1, size // shape.patch) * shape.patch} or change student.patch"
        )
    try:
        return Student(
            classes=classes,
            teachers=teachers,
            size=size,
            tokens=shape.tokens,
            stem=shape.stem,
            patch=shape.patch,
            width=shape.width,
            depth=shape.depth,
            heads=shape.heads,
            mlp_ratio=shape.mlp_ratio,
            drop_path=shape.drop_path,
        )
    except ValueError as fault:
        raise RecipeError(f"{fault}; name more teachers or set student.tokens") from fault


def load_teacher(run: Run, name: str) -> Teacher:
    """A trained teacher, in evaluation mode.

    Raises:
        RunError: it is not there.
    """
    stage = f"teachers/{name}"
    if not run.has(stage):
        raise RunError(
            f"{run.folder}: teacher {name!r} is not trained; `libkd-sdk teach {name} --out {run.folder}` does it"
        )
    config = run.config(stage)
    bare = msgspec.structs.replace(run.recipe.teachers[name], pretrained=False, weights=None, training=Training())
    preprocessing = msgspec.convert(config["preprocessing"], Preprocessing)
    net = create_teacher(bare, config["classes"], preprocessing).net
    return Teacher(run.load_into(stage, net), preprocessing, run.recipe.teachers[name].training.precision)


def load_student(run: str | Path, stage: str = "student") -> tuple[Student, tuple[str, ...], Preprocessing]:
    """A trained student, its class names, and how a picture becomes its input: what `sdk.export` asks for.

    Args:
        run: a run's folder.
        stage: `student`, or `arms/NAME` for one that it was compared with.

    Raises:
        RunError: there is no finished student in that folder.
    """
    opened = open_run(Path(run))
    if not opened.has(stage):
        raise RunError(f"{run}: no finished {stage} there; run `libkd-sdk distill --out {run}` again, it goes on")
    config = opened.config(stage)
    preprocessing = msgspec.convert(config["preprocessing"], Preprocessing)
    labels = tuple(config["labels"])
    shape = msgspec.convert(config["student"], StudentRecipe)
    student = create_student(shape, len(opened.recipe.teachers), len(labels), preprocessing)
    opened.load_into(stage, student)
    return student, labels, preprocessing


def pick_device(name: str) -> torch.device:
    """`auto` (this process's CUDA device if there is one, else the CPU), or a torch device's name.

    Raises:
        RecipeError: there is no such device here.
    """
    if name == "auto":
        own = int(os.environ.get("LOCAL_RANK", "0"))  # under torchrun each process has a device of its own
        return torch.device(f"cuda:{own}" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, ValueError) as fault:
        first = str(fault).splitlines()[0]
        raise RecipeError(f"no device {name!r} here ({first}); leave --device out, or say cpu or cuda") from fault

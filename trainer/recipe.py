"""The recipe: everything that decides the outcome of a run, apart from its data. It is read from TOML.

Every table is a typed struct, and an unknown key is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from sdk.files import read_text, sha256

from .errors import RecipeError
from .recipe_nets import StudentRecipe, Table, TeacherRecipe, Training
from .tables import to_struct, without_none
from .views import ExtraSpec, ViewSpec

__all__ = [
    "LARGEST_SMALL",
    "RECIPES",
    "Balance",
    "DataRecipe",
    "Recipe",
    "StudentRecipe",
    "TeacherRecipe",
    "Training",
    "ViewsRecipe",
    "differences",
    "read_recipe",
    "recipe_for",
    "write_recipe",
]


Balance = Literal["auto", "always", "never"]


class DataRecipe(Table, frozen=True, kw_only=True):
    """The conversion of images to pixels, and the share of them that is held out.

    Attributes:
        size: The height and width of the nets' input, in pixels. The default is the median size of the images, at
            most 96, or the nearest multiple of the student's patch.
        holdout: The share of each class that is held out for validation, unless the data has both a validation and a
            test split. If the data has neither, as much again is held out for the test.
        labels: The share of each class whose labels are used. The other training images count as unlabelled.
        memory_gb: If the decoded training images take more memory than this, they are decoded again in every epoch.
        mean, std: The normalisation of each channel, for pixels in 0..1. The default is that of ImageNet.
        balance: When images of rare classes count more in the loss for the labels: `auto`, if the largest class has
            more than five times the images of the smallest one; `always`, or `never`.
        lanes: The number of equal slices of a batch that several processes share, and that walk through shards. The
            number of processes divides it.
    """

    size: int | None = None
    holdout: float = 0.1
    labels: float = 1.0
    memory_gb: float = 8.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    balance: Balance = "auto"
    lanes: int = 8

    def __post_init__(self) -> None:
        if self.size is not None and not 8 <= self.size <= 1024:
            raise ValueError("size is between 8 and 1024 pixels")
        if not 0 < self.holdout <= 0.4:
            raise ValueError("holdout is above 0 and at most 0.4")
        if not 0 < self.labels <= 1:
            raise ValueError("labels is above 0 and at most 1")
        if not self.memory_gb >= 0:
            raise ValueError("memory_gb is not negative")
        if self.lanes < 1:
            raise ValueError("lanes is at least 1")


class ViewsRecipe(Table, frozen=True, kw_only=True):
    """The views that the student sees, and the source of its teachers' answers.

    Attributes:
        mode: `replay` stores `count` views and shows them in turn, one in each epoch. `exact` stores a different view
            for each epoch. `clean` stores one view, the unchanged image; it is weak and meant for comparisons.
            `online` stores nothing: the teachers answer while the student is trained.
        count: The number of stored views in mode `replay`.
        spec: The augmentation of the views.
        top_k: How many logits of each answer are stored, with the total mass of the others; 0 stores all. The default
            is all up to 1,000 classes, and 100 above that.
        bits: How many bits a stored logit has, 16 or 8. With 8 bits, each answer also has a scale and an offset.
        extra: Further augmentation that only the student sees, on top of the view that the teachers answered for.
    """

    mode: Literal["replay", "exact", "clean", "online"] = "replay"
    count: int = 10
    spec: ViewSpec = ViewSpec(scale=(0.5, 1.0), ratio=(0.75, 1.3333), flip=0.5, erase=0.25, mixup=0.8, cutmix=1.0)
    top_k: int | None = None
    bits: Literal[16, 8] = 16
    extra: ExtraSpec = ExtraSpec()

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("count is at least 1")
        if self.top_k is not None and self.top_k < 0:
            raise ValueError("top_k is not negative")


class Recipe(Table, frozen=True, kw_only=True):
    """Everything that decides the outcome of a run, apart from its data.

    Attributes:
        seed: The seed of everything that is random: initial weights, views, and the order of the images.
        data: How images become pixels, and which of them are held out.
        views: What the student sees, and where its teachers' answers come from.
        teachers: A table for each teacher, by its name. Their order is the order of the bias tokens.
        student: The student's shape and its loss.
    """

    seed: int = 0
    data: DataRecipe = DataRecipe()
    views: ViewsRecipe = ViewsRecipe()
    teachers: dict[str, TeacherRecipe]
    student: StudentRecipe = StudentRecipe()

    def __post_init__(self) -> None:
        if not self.teachers:
            raise ValueError("at least one [teachers.NAME] table is needed")
        for name in self.teachers:
            if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
                raise ValueError(f"a teacher's name consists of letters, digits, - and _, not {name!r}")

    def hash(self) -> str:
        """Return a hash of all values. Keys that runs did not always have count only if they are used."""
        table = msgspec.to_builtins(self)
        for part in (table["data"], table["views"], table["student"], *_trainings(table)):
            for key, unused in _LATER.items():
                if key in part and part[key] == unused:
                    del part[key]
        values = json.dumps([table, list(self.teachers)], sort_keys=True)
        return sha256(values.encode())[:16]


_LATER: dict[str, object] = {
    "model": None,
    "pretrained": False,
    "weights": None,
    "mean": None,
    "std": None,
    "lr_scale": 1.0,
    "frozen": 0,
    "balance": "auto",
    "lanes": 8,
    "bits": 16,
}
"""Keys of the tables `data`, `views`, `student` and `training` that came later, with the values that change nothing."""


def _trainings(table: dict[str, Any]) -> list[dict[str, Any]]:
    return [net["training"] for net in (table["student"], *table["teachers"].values())]


RECIPES = Path(__file__).parent / "recipes"
LARGEST_SMALL = 48
"""Up to this height and width in pixels, the default recipe is the one for small images."""


def shipped_recipes() -> dict[str, Path]:
    """Return the files of the recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.toml"))}


def read_recipe(source: str | Path) -> Recipe:
    """Return the recipe in a TOML file, or a recipe that comes with the package: `small`, `large`, `photos` or `demo`.

    Raises:
        RecipeError: the file is missing or not TOML, a key is unknown, or a value is out of range.
    """
    shipped = shipped_recipes()
    path = shipped.get(str(source), Path(source))
    if not path.is_file():
        raise RecipeError(f"{source}: no such recipe; name a TOML file or one of {', '.join(shipped)}")
    try:
        table = msgspec.toml.decode(read_text(path))
    except (OSError, msgspec.DecodeError, ValueError) as fault:
        raise RecipeError(f"{path}: not TOML: {fault}") from None
    return to_struct(table, Recipe, str(path))


def recipe_for(size: int) -> Recipe:
    """Return the default recipe for images of `size` pixels in height and width."""
    return read_recipe("small" if size <= LARGEST_SMALL else "large")


def write_recipe(recipe: Recipe) -> str:
    """Return the recipe as TOML, with all values, defaults included."""
    return msgspec.toml.encode(without_none(msgspec.to_builtins(recipe))).decode()


def differences(one: Recipe, other: Recipe) -> dict[str, tuple[object, object]]:
    """Return the dotted keys in which two recipes differ, with the values of both."""
    found = dict(_differences(msgspec.to_builtins(one), msgspec.to_builtins(other), ""))
    orders = list(one.teachers), list(other.teachers)  # the order of the bias tokens
    return found if found or orders[0] == orders[1] else {"teachers": orders}


def _differences(one: object, other: object, path: str) -> Iterator[tuple[str, tuple[object, object]]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in (*one, *(key for key in other if key not in one)):
            yield from _differences(one.get(key), other.get(key), f"{path}.{key}".lstrip("."))
    elif one != other:
        yield path, (one, other)

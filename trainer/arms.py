"""The arms of a run: its own student, and the students that it is compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sdk.files import read_text

from .counts import Counts
from .data import Dataset, Samples
from .errors import RecipeError
from .losses import Teaching
from .recipe import Recipe
from .records import ArmRecord
from .run import PLAIN, STUDENT, arm_stage
from .views import ViewSpec

PLAIN_ARM, OWN_ARM = "without teachers", "all teachers"
LABELLED_ARM = f"{OWN_ARM}, labelled images only"

NO_VIEWS = ViewSpec()
"""The unchanged image: what mode `clean` shows and stores."""


@dataclass(frozen=True)
class Arm:
    """One way to train the student.

    Attributes:
        stage: the folder in the run where the student is kept.
        teachers: the teachers that it learns from, in the recipe's order. Without any, the same net with the same
            initial weights learns from labels alone. As no store limits it then, it sees a new view in every epoch.
        recipe: the run's recipe, except for `views` and `student`.
        unlabelled: whether it also learns from images without labels. Without teachers it never does.
    """

    stage: str
    teachers: tuple[str, ...]
    recipe: Recipe
    unlabelled: bool = True

    def split(self, data: Dataset) -> Samples:
        """Return the images that the student learns from."""
        return data.students if self.teachers and self.unlabelled else data.train

    def images(self, counts: Counts) -> int:
        """Return the number of images that the student learns from."""
        return counts.students if self.teachers and self.unlabelled else counts.train

    @property
    def spec(self) -> ViewSpec:
        """The specification of the views that the student sees."""
        is_clean = self.teachers and self.recipe.views.mode == "clean"  # without teachers, no store asks for that
        return NO_VIEWS if is_clean else self.recipe.views.spec

    @property
    def stored_views(self) -> int:
        """The number of views that it needs from a store: 0 if nothing is stored, and never more than it has epochs."""
        mode, epochs = self.recipe.views.mode, self.recipe.student.training.epochs
        counts = {"online": 0, "clean": 1, "exact": epochs, "replay": min(self.recipe.views.count, epochs)}
        return counts[mode] if self.teachers else 0

    def record(self) -> ArmRecord:
        """Return everything that tells this arm from the other arms of its run."""
        return ArmRecord(
            teachers=self.teachers,
            unlabelled=self.unlabelled,
            views=self.recipe.views,
            student=self.recipe.student,
        )

    def teaching(self) -> Teaching:
        """Return the recipe's loss for the teachers of this arm.

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


def own_arm(recipe: Recipe) -> Arm:
    """Return the arm of the run's own student, which learns from all teachers."""
    return Arm(STUDENT, tuple(recipe.teachers), recipe)


def plain_arm(recipe: Recipe) -> Arm:
    """Return the arm of the same student without teachers."""
    return Arm(PLAIN, (), recipe)


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The differences of an arm from the run's own student.

    Attributes:
        views, student: the keys of these tables of the recipe that differ.
        teachers: the teachers that it learns from; None means all.
        unlabelled: whether it also learns from images without labels.
    """

    views: dict[str, Any] = {}
    student: dict[str, Any] = {}
    teachers: list[str] | None = None
    unlabelled: bool = True


def read_changes(path: Path) -> dict[str, Change]:
    """Return arms by name, from a TOML file with a table for each.

    Raises:
        RecipeError: the file can't be read, or has an unknown key.
    """
    try:
        return msgspec.toml.decode(read_text(path), type=dict[str, Change])
    except (OSError, msgspec.MsgspecError, ValueError) as fault:
        raise RecipeError(f"{path}: no arms ({fault}); each is a table with views, student or teachers") from fault


def list_arms(recipe: Recipe, data: Dataset, changes: Mapping[str, Change]) -> dict[str, Arm]:
    """Return the arms of a comparison by name: those that every comparison has, and those of `changes`.

    Raises:
        RecipeError: a change does not give a valid recipe, or two arms have the same name.
    """
    teachers = tuple(recipe.teachers)
    found = {PLAIN_ARM: plain_arm(recipe)}
    if len(teachers) > 1:
        found |= {f"{name} alone": Arm(arm_stage(f"{name}-alone"), (name,), recipe) for name in teachers}
    found[OWN_ARM] = own_arm(recipe)
    if data.unlabelled is not None:
        found[LABELLED_ARM] = Arm(arm_stage("labelled"), teachers, recipe, unlabelled=False)
    found |= {name: _changed(recipe, name, change) for name, change in changes.items()}
    stages = Counter(arm.stage for arm in found.values())
    for name, arm in found.items():
        if stages[arm.stage] > 1:
            raise RecipeError(f"arm {name!r}: another one is kept in {arm.stage} too; choose another name for it")
    return found


def arms_of(data: Dataset, changes: Mapping[str, Change]) -> Callable[[Recipe], list[Arm]]:
    """Return a function that gives the arms of a comparison for any recipe."""
    return lambda recipe: list(list_arms(recipe, data, changes).values())


def _changed(recipe: Recipe, name: str, change: Change) -> Arm:
    tables = msgspec.to_builtins(recipe)
    for table in ("views", "student"):
        tables[table] = _merged(tables[table], getattr(change, table))
    teachers = tuple(recipe.teachers if change.teachers is None else change.teachers)
    try:
        if not set(teachers) <= set(recipe.teachers):
            raise ValueError(f"no teachers {', '.join(teachers)} in the recipe")
        arm = Arm(arm_stage(_file_name(name)), teachers, msgspec.convert(tables, Recipe), change.unlabelled)
        if teachers:
            arm.teaching()
    except (msgspec.ValidationError, ValueError) as fault:
        raise RecipeError(f"arm {name!r}: {fault}; see docs/comparing.md for the keys") from fault
    return arm


def _merged(one: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    nested = {key: _merged(one[key], value) for key, value in other.items() if isinstance(one.get(key), dict)}
    return {**one, **other, **nested}


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-=." else "-" for letter in name)

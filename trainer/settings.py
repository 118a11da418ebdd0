"""Settings: changes to a recipe by the dotted names of its keys, such as `student.training.epochs = 30`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from .errors import RecipeError
from .recipe import Recipe
from .recipe_nets import SHAPE
from .tables import to_struct, without_none

EVERY_TEACHER = "*"
"""In the place of a teacher's name, it stands for every teacher."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Changes to a recipe.

    Attributes:
        epochs, batch, lr: replace the key of the same name in the schedules of the student and of every teacher that
            is trained.
        size: replaces `data.size`.
        keys: further changes, each as `KEY=VALUE` with a dotted key. A value is written as in TOML, and text also
            without quotes; without a value, `KEY=` gives the key its default, or leaves a teacher out. They are made
            last, in their order. `student.model` takes the place of the recipe's own shape of the student.
    """

    epochs: int | None = None
    batch: int | None = None
    lr: float | None = None
    size: int | None = None
    keys: Sequence[str] = ()

    def applied(self, recipe: Recipe) -> Recipe:
        """Return the changed recipe.

        Raises:
            RecipeError: there is no such key, or its value is out of range.
        """
        words = list(self.words())
        if not words:
            return recipe
        table = without_none(msgspec.to_builtins(recipe))
        schedule = {name: getattr(self, name) for name in ("epochs", "batch", "lr")}
        for net in (table["student"], *table["teachers"].values()):
            if net["training"]["epochs"]:
                net["training"].update(without_none(schedule))
        if self.size is not None:
            table["data"]["size"] = self.size
        for text in self.keys:
            _set(table, text)
        return to_struct(table, Recipe, " ".join(words))

    def words(self) -> Iterator[str]:
        """Give the settings as they are written on the command line."""
        for name in ("epochs", "batch", "lr", "size"):
            if (value := getattr(self, name)) is not None:
                yield f"--{name} {value}"
        yield from (f"--set {text}" for text in self.keys)


UNCHANGED = Settings()


def _set(recipe: dict[str, Any], text: str) -> None:
    key, is_set, value = text.partition("=")
    *path, last = key.strip().split(".")
    if not is_set or not all((*path, last)):
        raise RecipeError(f"--set {text}: not KEY=VALUE; write for example student.training.epochs=30")
    tables = [recipe]
    for name in path:
        if name == EVERY_TEACHER and tables == [recipe["teachers"]]:
            tables = list(recipe["teachers"].values())
        else:
            tables = [table.setdefault(name, {}) for table in tables]
        if not all(isinstance(table, dict) for table in tables):
            raise RecipeError(f"--set {text}: {name} is a value and has no keys; see docs/recipes.md for the keys")
    for table in tables:
        if table is recipe["teachers"] and not value.strip() and last not in table:
            raise RecipeError(f"--set {text}: there is no such teacher; the recipe has {', '.join(table)}")
        table[last] = _value(value.strip())
    if tables == [recipe["student"]] and last == "model":
        recipe["student"].update(dict.fromkeys(SHAPE))


def _value(text: str) -> object:
    """Return a value that is written as in TOML, or else the text itself; None for no text."""
    if not text:
        return None
    try:
        found: dict[str, object] = msgspec.toml.decode(f"value = {text}")
    except msgspec.DecodeError:
        return text
    return found["value"] if len(found) == 1 else text

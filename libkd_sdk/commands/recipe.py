"""The command `libkd-sdk recipe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sdk.errors import UsageError

from ..options import shipped_recipe_names, training_extra
from ..output import JsonOption, show_facts, show_json, show_text


def recipe(
    action: Annotated[Literal["list", "show"], typer.Argument(metavar="list|show", help="What to do.")],
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            autocompletion=shipped_recipe_names,
            help="With show: a recipe that comes along, or a TOML file.",
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="With show: every key, also those that have their default.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """List the recipes that come along, or show one, to read it or to change a copy of it.

    Example: libkd-sdk recipe show small > mine.toml
    """
    with training_extra():
        import msgspec

        from trainer.recipe import read_recipe, shipped_recipes, write_recipe

    shipped = {name: path.read_text(encoding="utf-8") for name, path in shipped_recipes().items()}
    if action == "list":
        if name is not None:
            raise UsageError(f"list takes no name; `libkd-sdk recipe show {name}` shows it")
        summaries = {name: _summary(text) for name, text in shipped.items()}
        if json:
            show_json(summaries)
        else:
            show_facts("", list(summaries.items()))
        return
    if name is None:
        raise UsageError(f"name a recipe: {', '.join(shipped)}, or a TOML file")
    found = read_recipe(name)
    if json:
        show_json(msgspec.to_builtins(found))
    else:
        show_text(write_recipe(found) if full else shipped.get(name) or Path(name).read_text(encoding="utf-8-sig"))


def _summary(text: str) -> str:
    """Return the first sentence of the comment at the beginning of a recipe."""
    comment: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    return " ".join(comment).partition(". ")[0].rstrip(".")

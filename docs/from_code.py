"""A Sphinx extension that writes the parts of the documentation which the code already knows.

A page contains `<!-- generated: NAME -->`. Before the page is parsed, the Markdown that the function of this name
returns takes its place. So the reference of the commands, the keys of a recipe and the table of engines can't differ
from the code.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import msgspec
import typer

if TYPE_CHECKING:
    from sphinx.application import Sphinx

MARK = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.MULTILINE)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _fill)
    app.connect("autodoc-process-docstring", _separate, priority=400)  # napoleon reads docstrings at 500
    app.connect("autodoc-process-docstring", _rejoin, priority=600)
    return {"parallel_read_safe": True}


def _fill(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = MARK.sub(lambda mark: GENERATED[mark[1]](), source[0])


def _separate(app: Sphinx, kind: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Give each name of `one, other: text` in a docstring an entry of its own; Sphinx takes `one` for a type."""
    found: list[str] = []
    names: list[str] = []
    texts: list[str] = []
    for line in [*lines, ""]:
        entry = re.match(r" {4}(\w+(?:, \w+)+): (.*)", line)
        if names and not re.match(r" {8}", line):
            found += [text for name in names for text in (f"    {name}: {texts[0]}", *texts[1:])]
            names, texts = [], []
        if entry:
            names, texts = entry[1].split(", "), [entry[2]]
        elif names:
            texts.append(line)
        else:
            found.append(line)
    lines[:] = found


def _rejoin(app: Sphinx, kind: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Undo what napoleon makes of a variable's docstring with a colon in it: it takes the first part for a type."""
    if kind in ("data", "attribute", "property") and lines and (types := [x for x in lines if x.startswith(":type: ")]):
        text = [line for line in lines if line and line not in types]
        lines[:] = [f"{types[0].removeprefix(':type: ')}: {text[0]}", *text[1:], ""]


def commands() -> str:
    """Return the reference of all commands, from the command line itself."""
    from libkd_sdk.main import app

    return "\n".join(line for name, command in _group(app).commands.items() for line in _command_lines(name, command))


def _group(app: typer.Typer) -> Any:
    return typer.main.get_command(app)


def _command_lines(name: str, command: Any) -> Iterator[str]:
    yield f"## libkd-sdk {name}\n"
    text, _, example = inspect.cleandoc(command.help or "").partition("Example:")
    yield _plain(text.strip()) + "\n"
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    usage = " ".join(["libkd-sdk", name, "[OPTIONS]", *(_argument(argument) for argument in arguments)])
    yield f"```text\n{usage}\n```\n"
    if example:
        yield f"Example:\n\n```text\n{example.strip()}\n```\n"
    for parameter in command.params:
        if parameter.hidden:
            continue
        name = parameter.metavar or parameter.name.upper()
        shown = f"`{name}`" if parameter in arguments else ", ".join(f"`{option}`" for option in parameter.opts)
        yield f"{shown}{_remarks(parameter, parameter in arguments)}"
        yield f": {_plain(parameter.help)}\n"


def _plain(help: str) -> str:
    """Return a help text as Markdown in which no character has a second meaning."""
    return re.sub(r"([*_<>\[\]`])", r"\\\1", help)


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.nargs == 1 or name.endswith("...") else f"{name}..."


def _remarks(parameter: Any, argument: bool) -> str:
    remarks = []
    if parameter.required:
        remarks.append("required")
    if parameter.multiple and not argument:
        remarks.append("may be given several times")
    if parameter.default not in (None, False):
        remarks.append(f"default `{parameter.default}`")
    return f" ({', '.join(remarks)})" if remarks else ""


def recipe() -> str:
    """Return all keys of a recipe, from the typed tables that read it and from their docstrings."""
    return "\n".join(line for title, table in recipe_tables().items() for line in _table_lines(title, table))


def recipe_tables() -> dict[str, type[msgspec.Struct]]:
    """Return the typed tables of a recipe by the heading of their section."""
    from trainer.recipe import DataRecipe, Recipe, StudentRecipe, TeacherRecipe, Training, ViewsRecipe
    from trainer.views import ExtraSpec, ViewSpec

    return {
        "At the top": Recipe,
        "`[data]`": DataRecipe,
        "`[views]`": ViewsRecipe,
        "`[views.spec]`, and `views` of a teacher": ViewSpec,
        "`[views.extra]`": ExtraSpec,
        "`[teachers.NAME]`": TeacherRecipe,
        "`[student]`": StudentRecipe,
        "`[student.training]`, and `training` of a teacher": Training,
    }


def _table_lines(title: str, table: type[msgspec.Struct]) -> Iterator[str]:
    yield f"### {title}\n"
    yield _summary(table) + "\n"
    fields = {field.name: field for field in msgspec.structs.fields(table)}
    hints = typing.get_type_hints(table)
    for names, text in documented(table).items():
        keys = [f"`{name}` ({_type(hints[name])}{_default(fields.pop(name))})" for name in names]
        yield ", ".join(keys)
        yield f": {text[0].upper()}{text[1:]}\n"


def _summary(table: type[msgspec.Struct]) -> str:
    return (inspect.getdoc(table) or "").partition("\n\nAttributes:")[0].strip()


def documented(table: type[msgspec.Struct]) -> dict[tuple[str, ...], str]:
    """Return the text of each entry under `Attributes:` by the keys that it describes."""
    lines = (inspect.getdoc(table) or "").partition("\n\nAttributes:\n")[2].splitlines()
    found: dict[tuple[str, ...], str] = {}
    for line in lines:
        entry = re.match(r" {4}(\w+(?:, \w+)*): (.*)", line)
        if entry:
            keys = tuple(entry[1].split(", "))
            found[keys] = entry[2]
        elif line.strip():
            found[keys] += " " + line.strip()
        else:
            break
    return found


def _type(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments if argument is not type(None))
    if origin is Literal:
        return " or ".join(f'`"{argument}"`' for argument in arguments)
    if origin is tuple:
        return f"list of {len(arguments)} numbers"
    if origin is dict or (isinstance(hint, type) and issubclass(hint, msgspec.Struct)):
        return "table"
    return {int: "whole number", float: "number", str: "text", bool: "true or false"}[hint]


def _default(field: Any) -> str:
    value = field.default
    if field.required:
        return ", required"
    if value is None or value is msgspec.NODEFAULT or isinstance(value, msgspec.Struct):
        return ""
    shown = msgspec.toml.encode({"value": value}).decode().strip().removeprefix("value = ")
    shown = " ".join(shown.split()).replace("[ ", "[").replace(", ]", "]")
    return f", default `{shown}`"


def engines() -> str:
    """Return the table of engines, from the only list of them."""
    from runtimes.engines import ENGINES

    rows = [
        "| `--target` | engine | files | precisions | run | export | backends |",
        "|---|---|---|---|---|---|---|",
    ]
    for target, engine in ENGINES.items():
        files, precisions, backends = (
            ", ".join(f"`{name}`" for name in names) for names in (engine.files, engine.precisions, engine.backends)
        )
        run, lower = (f"`pip install 'libkd-sdk{extra}'`" for extra in (engine.run_extra, engine.lower_extra))
        run = f"on {engine.elsewhere.devices}" if engine.elsewhere else run
        cells = (f"`{target}`", engine.title, files, precisions, run, lower, backends or "-")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


GENERATED: dict[str, Callable[[], str]] = {"commands": commands, "recipe": recipe, "engines": engines}

"""Tables that become typed structs. What is wrong in one is a line that names the key, as it is written in TOML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from sdk.errors import did_you_mean

from .errors import RecipeError

Kind = TypeVar("Kind", bound=msgspec.Struct)


def without_none(table: dict[str, Any]) -> dict[str, Any]:
    """Return the table without the keys whose value is None, which TOML can't express."""
    return {k: without_none(v) if isinstance(v, dict) else v for k, v in table.items() if v is not None}


def to_struct(table: dict[str, Any], kind: type[Kind], place: str) -> Kind:
    """Return a table as a struct of `kind`. A key whose value is None gets its default.

    Args:
        place: where the table was written, as the beginning of an error's message.

    Raises:
        RecipeError: a key is unknown or missing, or a value has another type or is out of range.
    """
    for path, key, known in _unknown(table, kind, ()):
        raise RecipeError(f"{place}: {_no_such_key(path, key, known, kind)} (see docs/recipes.md for the keys)")
    try:
        return msgspec.convert(without_none(table), kind)
    except msgspec.ValidationError as fault:
        reason = re.sub(r" - at `\$\.?(.*)`$", r" - at \1", str(fault))
        raise RecipeError(f"{place}: {reason}; see docs/recipes.md for the keys") from None


def _unknown(value: object, kind: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str, list[str]]]:
    """Give the unknown keys below `path`: the table, the key, and the keys that its table has."""
    if not isinstance(value, dict):
        return
    if get_origin(kind) is dict:  # such as the teachers, by name
        known: dict[str, Any] = dict.fromkeys(value, get_args(kind)[1])
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        known = get_type_hints(kind)
    else:
        return
    for key, inner in value.items():
        if key in known:
            yield from _unknown(inner, known[key], (*path, key))
        else:
            yield path, key, list(known)


def _no_such_key(path: tuple[str, ...], key: str, known: list[str], kind: type[msgspec.Struct]) -> str:
    table = f"[{'.'.join(path)}]" if path else "the recipe"
    elsewhere = [name for name in _keys(kind, "") if name.rpartition(".")[2] == key]
    hint = f"did you mean {elsewhere[0]!r}?" if elsewhere else did_you_mean(key, known)
    return f"{table} has no key {key!r}; {hint}"


def _keys(kind: Any, path: str) -> Iterator[str]:
    """Give the dotted names of all keys. `NAME` stands for a key that the user chooses."""
    for key, inner in get_type_hints(kind).items():
        yield path + key
        below = path + key + "."
        if get_origin(inner) is dict:
            inner, below = get_args(inner)[1], f"{below}NAME."
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            yield from _keys(inner, below)

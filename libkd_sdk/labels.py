"""Labels in a file: one a line, or JSON."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import msgspec

from sdk.bundle.manifest import Label
from sdk.errors import UsageError
from sdk.files import read_text

_FORMS = 'one a line, a JSON list, or a JSON object such as {"0": "cat"} or {"cat": 0}'
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the labels in a file, in the order of the classes.

    The file is UTF-8 text with one label a line, a JSON list, or a JSON object from numbers to labels or from labels to
    numbers. Two classes may have the same label, as two of ImageNet do; two labels with the same number are an error.

    Raises:
        UsageError: the file can't be read, or it is not clear which label a class has.
    """
    try:
        labels = _labels(read_text(path))
        for number, label in enumerate(labels):
            _check(label, number)
        return labels
    except OSError as fault:
        raise UsageError(f"{path}: can't be read as labels ({fault.strerror}); {_FORMS}") from fault
    except (ValueError, RecursionError) as fault:
        raise UsageError(f"{path}: can't be read as labels ({fault}); {_FORMS}") from fault


def _labels(text: str) -> tuple[str, ...]:
    if not text.strip():
        raise ValueError("it is empty")
    if not text.lstrip().startswith(("[", "{")):
        return _of_lines(text)
    found = json.loads(text, object_pairs_hook=_once)
    if not found:
        raise ValueError("it is empty")
    return _of_list(found) if isinstance(found, list) else _of_object(found)


def _of_lines(text: str) -> tuple[str, ...]:
    """Return the lines; only `\\n` and `\\r\\n` end one, because a label may hold one of Unicode's other line ends."""
    lines = [line.removesuffix("\r").strip(" \t") for line in text.split("\n")]
    while not lines[-1]:
        lines.pop()
    if "" in lines:
        raise ValueError(f"line {lines.index('') + 1} is empty")
    return tuple(lines)


def _of_list(labels: list[object]) -> tuple[str, ...]:
    return tuple(_text(label, f"number {number}") for number, label in enumerate(labels))


def _of_object(table: dict[str, object]) -> tuple[str, ...]:
    """Return the labels of an object that may be read in two ways: numbers to labels, or labels to numbers."""
    are_numbers = all(map(_NUMBER.fullmatch, table))
    if not all(type(value) is int for value in table.values()):
        if not are_numbers:
            raise ValueError("neither from numbers to labels nor from labels to numbers")
        return _numbered({int(key): _text(value, f"number {key}") for key, value in table.items()})
    if are_numbers and any(int(key) != value for key, value in table.items()):
        raise ValueError("numbers on both sides; put the labels in quotes")
    twice, times = Counter(table.values()).most_common(1)[0]
    if times > 1:
        one, other, *_ = (label for label, number in table.items() if number == twice)
        raise ValueError(f"{one!r} and {other!r} have the same number, {twice}")
    return _numbered({number: label for label, number in table.items() if isinstance(number, int)})


def _numbered(labels: dict[int, str]) -> tuple[str, ...]:
    missing = next((number for number in range(len(labels)) if number not in labels), None)
    if missing is not None:
        raise ValueError(f"{len(labels)} numbers, but {missing} is not among them; they are 0 to {len(labels) - 1}")
    return tuple(labels[number] for number in range(len(labels)))


def _text(label: object, place: str) -> str:
    if not isinstance(label, str):
        raise ValueError(f"{place} is {json.dumps(label)[:40]}, no text")
    return label


def _check(label: str, number: int) -> None:
    try:
        msgspec.convert(label, Label).encode()
    except (msgspec.ValidationError, UnicodeEncodeError) as fault:
        raise ValueError(f"number {number} is {label[:40]!r}: empty, longer than 500, or not printable") from fault


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError(f"{Counter(key for key, _ in pairs).most_common(1)[0][0]!r} is there twice")
    return table

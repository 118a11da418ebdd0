"""The folder of `eval --wrong`: the images that were answered wrongly, sorted for a person who looks through them."""

from __future__ import annotations

import json
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sdk.errors import UsageError
from sdk.files import disk_failures, write_whole
from sdk.whole_folder import whole_folder

LIST = "wrong.jsonl"
"""The file with a JSON object for each image: where it is, where it came from, and what each net says."""

_LABEL, _NAME, _SUFFIX = 80, 100, 10
"""How many bytes a label, a name and its suffix may have in the name of a file. Most file systems allow 255 in all."""

_FORBIDDEN = re.compile('[<>:"/\\\\|?*\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
"""The names that Windows keeps for devices, with any suffix."""


class Miss(NamedTuple):
    """An image that was answered wrongly, as `eval --json` lists it.

    Attributes:
        image: its name in the data.
        label: its class.
        answer: the class that was answered.
        score: the probability of the answer.
    """

    image: str
    label: str
    answer: str
    score: float


class Original(NamedTuple):
    """A file to copy: its name without folders, and a function that returns its bytes."""

    name: str
    load: Callable[[], bytes]


def check_new(folder: Path) -> None:
    """Raise `UsageError` unless `folder` does not exist, or is an empty folder."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"--wrong {folder}: not a folder; name one that is new or empty")
    if folder.exists() and (there := next(folder.iterdir(), None)):
        raise UsageError(f"--wrong {folder}: holds {there.name}; name a folder that is new or empty")


def write_wrong(
    folder: Path,
    misses: Sequence[Miss],
    said: Mapping[str, Sequence[tuple[str, float]]],
    originals: Sequence[Original],
) -> None:
    """Copy images to `LABEL/NUMBER as ANSWER SCORE NAME`, and list them. The folder is written whole or not at all.

    Args:
        misses: they are numbered in this order.
        said: the label and the score that each net gives to each of the images, by what people call the net.
        originals: the file of each of the images.

    Raises:
        UsageError: the folder holds something.
        DataError: an image can't be read any more.
        FileError: the disk is full, or the folder can't be written.
    """
    check_new(folder)
    folders, width, rows = _folders(miss.label for miss in misses), len(str(len(misses))), list[dict[str, Any]]()
    with whole_folder(folder) as hidden:
        for index, (miss, (name, load)) in enumerate(zip(misses, originals, strict=True)):
            answer = safe(miss.answer, _LABEL)
            file = f"{index + 1:0{width}} as {answer} {miss.score:.0%} {_safe_file(name)}"
            place, content = f"{folders[miss.label]}/{file}", load()
            with disk_failures(folder):
                (hidden / place).parent.mkdir(exist_ok=True)
                (hidden / place).write_bytes(content)
            nets = {net: dict(zip(("answer", "score"), given[index], strict=True)) for net, given in said.items()}
            rows.append({"file": place, **miss._asdict(), "nets": nets})
        write_whole(hidden / LIST, "".join(f"{json.dumps(row)}\n" for row in rows))


def _folders(labels: Iterable[str]) -> dict[str, str]:
    """Return a safe name for the folder of each label. No two are the same, even where capitals do not count."""
    names, taken = dict[str, str](), {LIST}
    for label in sorted(set(labels)):
        name, number = safe(label, _LABEL), 1
        while (unique := name if number == 1 else f"{name} {number}").casefold() in taken:
            number += 1
        taken.add(unique.casefold())
        names[label] = unique
    return names


def _safe_file(name: str) -> str:
    stem, suffix = posixpath.splitext(name)
    if len(suffix.encode(errors="replace")) > _SUFFIX:
        stem, suffix = name, ""
    return safe(stem, _NAME) + _FORBIDDEN.sub("_", suffix).rstrip(". ")


def safe(text: str, most: int) -> str:
    """Return a text as the name of a file, or as a part of it, that every file system allows.

    Args:
        most: the number of bytes of UTF-8 that it may have.
    """
    text = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", text))
    text = text.encode()[:most].decode(errors="ignore").strip()
    text = re.sub(r"^\.|\.+$", "_", text)  # hidden, or cut off by Windows
    return f"_{text}" if not text or _DEVICES.match(text) else text

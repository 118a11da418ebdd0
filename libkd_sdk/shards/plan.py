"""The folder that `predict --out` fills: what it was made for, and which images are in which shard."""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import chain, islice
from pathlib import Path
from typing import IO, Literal, NamedTuple

import msgspec

from sdk.errors import UsageError
from sdk.files import finish, held, read_text, unfinished, write_whole
from sdk.folders import listed
from sdk.images import ImageSource
from trainer.progress import Progress

from .sources import Source, images_of
from .tars import images_in_tar

PLAN = "plan.json"
IMAGES = "images.txt"
"""The names of the images in the folders, each as a JSON string on a line of its own."""
_LOCK = ".lock"

SHARD_IMAGES = 1000
"""The images of a folder that become one shard. Tests lower it, and so do they with the next one."""
SORTED_AT_ONCE = 2**18
"""The names that are sorted in memory. More of them are sorted in files."""


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The arguments that decide what the answers are.

    Attributes:
        bundle: the SHA-256 of its `bundle.json`, which lists those of its files.
        sources: the names of the folders and tars.
    """

    bundle: str
    top_k: int
    threshold: float
    sources: tuple[str, ...]


class Cut(NamedTuple):
    """The images of one shard in the file of names: where they begin, in bytes, and how many they are."""

    start: int
    images: int


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `plan.json`.

    Attributes:
        cuts: for each folder of images, its shards.
        names_bytes: the size of the file of names; 0 if there are only tars.
    """

    format: Literal["libkd-predictions/1"] = "libkd-predictions/1"
    request: Request
    cuts: dict[str, list[Cut]]
    names_bytes: int


class Shard(NamedTuple):
    """A tar, or a part of the images of a folder.

    Attributes:
        file: the name of the file of its answers.
        cut: None for a tar.
        names: the file of names.
    """

    file: str
    source: Source
    cut: Cut | None
    names: Path

    def images(self) -> Iterator[tuple[str, ImageSource]]:
        """Give each image with its name.

        Raises:
            ImageError: the tar is damaged; see `images_in_tar`.
        """
        if self.cut is None:
            yield from images_in_tar(self.source.path, self.source.name)
            return
        with self.names.open("rb") as lines:
            lines.seek(self.cut.start)
            for line in islice(lines, self.cut.images):
                name = json.loads(line)
                yield self.source.name + name, self.source.path / name


def plan_of(out: Path, request: Request, sources: Sequence[Source], progress: Progress) -> Plan:
    """Return the plan of the folder `out`. If it has none, the first process lists the images, and others wait.

    Raises:
        UsageError: the folder was made for something else, or there are no images.
        FileError: it can't be written.
    """
    if not (out / PLAN).exists():
        _make(out, request, sources, progress)
    plan = _read(out / PLAN)
    if difference := _difference(plan.request, request):
        raise UsageError(f"{out}: was made {difference}; name another folder by --out, or remove this one")
    if plan.cuts and _size(out / IMAGES) != plan.names_bytes:
        raise UsageError(f"{out / IMAGES}: not the list that {PLAN} was made for; name another folder by --out")
    return plan


def shards_of(out: Path, plan: Plan, sources: Sequence[Source]) -> list[Shard]:
    """Return all shards in order."""
    cuts = [(source, cut) for source in sources for cut in plan.cuts.get(source.name, (None,))]
    width = max(5, len(str(len(cuts))))
    return [Shard(f"{number:0{width}}.jsonl", source, cut, out / IMAGES) for number, (source, cut) in enumerate(cuts)]


def _read(path: Path) -> Plan:
    try:
        content = json.loads(read_text(path))  # msgspec's own JSON takes no names that are not UTF-8
        return msgspec.convert(content, Plan)
    except (ValueError, msgspec.ValidationError) as fault:
        raise UsageError(f"{path}: not understood ({fault}); name another folder by --out") from fault


def _difference(made: Request, asked: Request) -> str:
    if made.bundle != asked.bundle:
        return "with another bundle"
    if made.top_k != asked.top_k:
        return f"with --top-k {made.top_k}"
    if made.threshold != asked.threshold:
        return f"with --threshold {made.threshold:g}"
    return "" if made.sources == asked.sources else f"from other sources ({listed(made.sources, 3)})"


def _make(out: Path, request: Request, sources: Sequence[Source], progress: Progress) -> None:
    is_new = not out.exists()
    with held(out / _LOCK, wait=True):
        try:
            if not (out / PLAN).exists():
                _check_empty(out)
                folders = [source for source in sources if source.is_folder]
                cuts = _list_images(out / IMAGES, folders, progress) if folders else {}
                plan = Plan(request=request, cuts=cuts, names_bytes=_size(out / IMAGES))
                write_whole(out / PLAN, json.dumps(msgspec.to_builtins(plan)) + "\n")
        finally:
            with suppress(OSError):
                (out / _LOCK).unlink()
                if is_new:
                    out.rmdir()  # it is empty only if there were no images


def _check_empty(out: Path) -> None:
    """Refuse a folder with other files, which might be taken for answers."""
    for entry in out.iterdir():
        if not entry.name.startswith(".") and entry.name != IMAGES:
            raise UsageError(f"{out}: holds {entry.name}, and no {PLAN}; name a new folder by --out")


def _list_images(path: Path, folders: Sequence[Source], progress: Progress) -> dict[str, list[Cut]]:
    """Write the sorted names of the images in all folders into a file, and return where its shards begin."""
    cuts = dict[str, list[Cut]]()
    progress.begin("listing images", 0)
    with unfinished(path) as file:
        for folder in folders:
            names = sorted_lines((f"{json.dumps(name)}\n".encode() for name in images_of(folder.path)), path.parent)
            cuts[folder.name] = [
                Cut(file.tell(), _written(chain([first], islice(names, SHARD_IMAGES - 1)), file)) for first in names
            ]
        finish(file, path)
    progress.end(f"{sum(cut.images for folder in cuts.values() for cut in folder):,} images")
    return cuts


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _written(lines: Iterable[bytes], file: IO[bytes]) -> int:
    count = 0
    for line in lines:
        file.write(line)
        count += 1
    return count


def sorted_lines(lines: Iterable[bytes], folder: Path) -> Iterator[bytes]:
    """Give lines in order. Of very many, most are kept in nameless files in a folder, and few in memory."""
    lines = iter(lines)
    with ExitStack() as files:
        runs = list[Iterable[bytes]]()
        while run := sorted(islice(lines, SORTED_AT_ONCE)):
            if len(run) < SORTED_AT_ONCE:
                runs.append(run)
                break
            file = files.enter_context(tempfile.TemporaryFile(dir=folder))
            file.writelines(run)
            file.seek(0)
            runs.append(file)
        yield from heapq.merge(*runs)

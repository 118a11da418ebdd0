"""The work of `predict --out`: a file of JSON lines for each shard, which gets its name when it is whole."""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from sdk.classifier import Classifier
from sdk.errors import FileError, ImageError
from sdk.files import finish, unfinished
from sdk.images import ImageSource
from trainer.progress import Progress

from ..output import json_line, show_error
from .plan import Shard

DAMAGED = ".damaged"
"""The end of the name of what could be read of a damaged tar."""

_PARTIAL = re.compile(r"\.(.+)\.[0-9a-f]{12}")
"""The name of a file while it is written, see `sdk.files.unfinished`."""
_TOLD_EVERY = 10_000


class Summary(msgspec.Struct, kw_only=True):
    """The result of a part, in numbers.

    Attributes:
        shards: their number.
        done: those that were predicted now, to their end.
        skipped: those whose file was there already.
        damaged: those that can't be read to their end. The next run tries them again.
        images: the images that were tried now.
        errors: those of them that can't be read.
        earlier_errors: the images that can't be read, by the files that were there already.
        seconds: the time that it took.
    """

    shards: int
    done: int = 0
    skipped: int = 0
    damaged: int = 0
    images: int = 0
    errors: int = 0
    earlier_errors: int = 0
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        return not (self.damaged or self.errors or self.earlier_errors)


class _Answered(NamedTuple):
    """The number of images of a shard, how many can't be read, and why the shard can't be read to its end."""

    images: int
    errors: int
    damage: ImageError | None


def predict_shards(classifier: Classifier, out: Path, shards: Sequence[Shard], progress: Progress) -> Summary:
    """Write the answers to each shard that has no file in the folder `out` yet.

    Several processes may do the same shards: a shard still has one file.

    Raises:
        EngineError: the engine failed.
        FileError: the disk is full, or the folder can't be written.
    """
    started, summary = time.perf_counter(), Summary(shards=len(shards))
    present, missing = list[Shard](), list[Shard]()
    for shard in shards:
        (present if (out / shard.file).exists() else missing).append(shard)
    if present:
        progress.tell(f"{out}: {len(present):,} of {len(shards):,} shards were done before")
    progress.begin("predicting", len(shards))
    progress.step(len(present))
    for shard in missing:
        answered = _answer(classifier, out, shard, progress, summary.images)
        progress.step()
        if answered is None:
            present.append(shard)
            continue
        summary.images += answered.images
        summary.errors += answered.errors
        if answered.damage is None:
            summary.done += 1
        else:
            summary.damaged += 1
            show_error(answered.damage)
    _sweep(out)
    summary.skipped = len(present)
    summary.earlier_errors = sum(_errors_in(out / shard.file) for shard in present)
    summary.seconds = time.perf_counter() - started
    progress.end(f"{summary.images:,} images")
    return summary


def _answer(classifier: Classifier, out: Path, shard: Shard, progress: Progress, before: int) -> _Answered | None:
    """Write the file of a shard. Return None if another process was faster."""
    path = out / shard.file
    if path.exists():
        return None
    try:
        with unfinished(path) as file:
            answered = _write(classifier, shard, file, progress, before)
            finish(file, path if answered.damage is None else path.with_name(path.name + DAMAGED))
    except FileError:
        if path.exists():  # the process that wrote it may have swept ours away
            return None
        raise
    return answered


def _write(classifier: Classifier, shard: Shard, file: IO[bytes], progress: Progress, before: int) -> _Answered:
    names, damage = deque[str](), list[ImageError]()
    images = errors = 0
    for outcome in classifier.stream(_taking(shard.images(), names, damage), errors="return"):
        images += 1
        if isinstance(outcome, ImageError):
            errors += 1
            row = {"source": names.popleft(), **_fault(outcome)}
        else:
            row = {**outcome.to_dict(), "source": names.popleft()}
        file.write(f"{json_line(row)}\n".encode())
        if (before + images) % _TOLD_EVERY == 0:
            progress.step(0, f"{before + images:,} images")
    for fault in damage:
        file.write(f"{json_line({'source': shard.source.name, **_fault(fault)})}\n".encode())
    return _Answered(images, errors, damage[0] if damage else None)


def _taking(
    images: Iterator[tuple[str, ImageSource]], names: deque[str], damage: list[ImageError]
) -> Iterator[ImageSource]:
    """Give each image, keep in `names` what it is called, and in `damage` why there are no more."""
    try:
        for name, image in images:
            names.append(name)
            yield image
    except ImageError as fault:  # raised further, it would end the stream before the last answers
        damage.append(fault)


def _fault(error: ImageError) -> dict[str, Any]:
    return {"error": str(error), "code": error.code}


def _errors_in(path: Path) -> int:
    """Return the number of images that can't be read, by the file of their answers."""
    with path.open("rb") as lines:
        return sum("error" in json.loads(line) for line in lines if b'"error"' in line)


def _sweep(out: Path) -> None:
    """Remove what killed processes left of shards that have a file now, and what was damaged of those."""
    for entry in out.iterdir():
        partial = _PARTIAL.fullmatch(entry.name)
        finished = partial[1] if partial else entry.name.removesuffix(DAMAGED)
        if finished != entry.name and (out / finished).exists():
            with suppress(OSError):
                entry.unlink()

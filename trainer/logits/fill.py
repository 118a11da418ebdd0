"""The pass that fills a store."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from random import SystemRandom

import msgspec
import torch
from torch import Tensor

from ..data import Samples
from ..device import Arithmetic
from ..errors import OutOfMemory
from ..models import Teacher
from ..parallel import from_first, meet, rank, total, world_size
from ..progress import Progress
from ..units import ALL, Part, size
from ..views import render
from .store import LogitStore

FILL_BATCH, PIXELS_ON_GPU = 256, 2**22
"""The number of images that are rendered and answered at once. On a GPU it is the number of images that have
`PIXELS_ON_GPU` pixels together (4,096 of 32 x 32), if that is more."""


class FillResult(msgspec.Struct, frozen=True, kw_only=True):
    """The work of one pass, of all processes that share it.

    Attributes:
        units: the number of units that it computed.
        answers: the number of images in them, times the number of teachers.
        seconds: how long the pass took.
    """

    units: int
    answers: int
    seconds: float


def fill_batch(height: int, width: int, device: torch.device) -> int:
    """Return how many images are rendered and answered at once: an even number."""
    return max(FILL_BATCH, PIXELS_ON_GPU // (height * width) // 2 * 2) if device.type == "cuda" else FILL_BATCH


@torch.inference_mode()
def fill_missing(
    store: LogitStore, teachers: Mapping[str, Teacher], split: Samples, progress: Progress, part: Part = ALL
) -> FillResult:
    """Compute the missing units of a part. Each teacher answers for exactly the pixels that the student will see.

    Processes may share the work, and none computes a unit that exists already.

    Raises:
        OutOfMemory: the device has no memory for the answers to a single pair of images.
        StoreError: a logit is too large for float16, or not a number.
        FileError: the disk is full, or the folder can't be written.
    """
    missing, batch = from_first(lambda: store.missing(part)), fill_batch(*split.size, split.device)
    units, answers, started = 0, 0, time.perf_counter()
    own = _own(missing)
    if missing:
        progress.begin("storing logits", sum(len(store.shards()[shard]) for _, shard in own))
        for unit in own:
            if not store.path(*unit).exists():
                while (rows := _unit_answers(store, unit, teachers, split, batch, progress)) is None:
                    batch = _smaller(batch, split.device)
                store.write(*unit, rows, arithmetic_of(teachers, split.device))
                answers += sum(map(len, rows.values()))
                units += 1
        progress.end(size(store.bytes))
    meet()  # one may have a unit more than another
    return FillResult(units=total(units), answers=total(answers), seconds=time.perf_counter() - started)


def _own(units: list[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """Return the units that this process computes.

    Processes that work together take them in turn. A process that knows of no others takes all of them at random:
    several that were started at the same moment would else compute every unit together.
    """
    if world_size() == 1:
        return SystemRandom().sample(units, len(units))
    return Part(rank() + 1, world_size()).of(units)


def _unit_answers(
    store: LogitStore,
    unit: tuple[int, int],
    teachers: Mapping[str, Teacher],
    split: Samples,
    batch: int,
    progress: Progress,
) -> dict[str, Tensor] | None:
    """Return the logits [places, classes] of each teacher, computed for `batch` places at a time.

    Return None if the device has no memory for that many.
    """
    view, shard = unit
    chunks = split.rows(store.header.seed, view, store.shards()[shard]).split_by(batch)
    rows: dict[str, list[Tensor]] = {name: [] for name in teachers}
    with suppress(torch.OutOfMemoryError):
        for chunk, images in zip(chunks, split.feed([chunk.indices for chunk in chunks]), strict=True):
            for name, logits in answers_of(store, teachers, images, chunk.ids, view).items():
                rows[name].append(logits)
            progress.step(len(chunk), note=f"a unit of view {view + 1}")
        return {name: torch.cat(logits) for name, logits in rows.items()}
    return None


def _smaller(batch: int, device: torch.device) -> int:
    torch.cuda.empty_cache()
    if batch <= 2:
        raise OutOfMemory(f"{device} has no memory for the teachers' answers to two images; take smaller teachers")
    return batch // 4 * 2


def arithmetic_of(teachers: Mapping[str, Teacher], device: torch.device) -> Arithmetic:
    """Return the least exact arithmetic in which one of the teachers answers on `device`."""
    return "bf16" if any(teacher.arithmetic(device) == "bf16" for teacher in teachers.values()) else "fp32"


def answers_of(
    store: LogitStore, teachers: Mapping[str, Teacher], images: Tensor, samples: Tensor, view: int
) -> dict[str, Tensor]:
    """Return the logits [samples, classes] of each teacher for a view of some images."""
    pixels = render(images, samples, seed=store.header.seed, view=view, spec=store.header.spec).pixels
    return {name: teacher.answer(pixels) for name, teacher in teachers.items()}

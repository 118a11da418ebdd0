"""The pass that fills a store, and the pass that checks it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress

import msgspec
import torch
from torch import Tensor

from ..data import Split
from ..device import Arithmetic
from ..errors import OutOfMemory
from ..models import Teacher
from ..parallel import rank, world_size
from ..progress import Progress
from ..units import size
from ..views import Keys, order, render
from .store import LogitStore

FILL_BATCH, PIXELS_ON_GPU = 256, 2**22
"""The number of images that are rendered and answered at once. On a GPU it is the number of images that have
`PIXELS_ON_GPU` pixels together (4,096 of 32 x 32), if that is more."""

TOLERANCE: dict[Arithmetic, float] = {"fp32": 2**-9, "bf16": 2**-4}
"""The largest allowed distance of an answer from the stored one, as a share of the largest logit. Both are rounded to
float16 (2^-11). The products in bf16 also depend on the batch size: single logits of trained teachers moved by 1.5 %.
"""


class FillResult(msgspec.Struct, frozen=True, kw_only=True):
    """The work of this process in one pass.

    Attributes:
        units: the number of units that it computed.
        answers: the number of images in them, times the number of teachers.
        seconds: how long the pass took.
    """

    units: int
    answers: int
    seconds: float


class CheckResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The comparison of stored answers with recomputed ones.

    Attributes:
        samples: the number of images whose answers were compared.
        max_abs_error, mean_abs_error: of the logits; of top-k answers, of the logits that are stored.
        tolerance: the largest allowed `max_abs_error`.
        within: whether all errors are within their tolerance.
        top1_agreement: the share of answers whose largest logit is that of the same class.
        max_rest_error: the largest error of the probability of all other classes together. It exists only for top-k
            answers; its tolerance is the same share, of 1.
    """

    samples: int
    max_abs_error: float
    mean_abs_error: float
    tolerance: float
    within: bool
    top1_agreement: float
    max_rest_error: float | None = None


def fill_batch(height: int, width: int, device: torch.device) -> int:
    """Return how many images are rendered and answered at once: an even number."""
    return max(FILL_BATCH, PIXELS_ON_GPU // (height * width) // 2 * 2) if device.type == "cuda" else FILL_BATCH


@torch.inference_mode()
def fill_missing(store: LogitStore, teachers: Mapping[str, Teacher], split: Split, progress: Progress) -> FillResult:
    """Compute every missing unit. Each teacher answers for exactly the pixels that the student will see.

    Processes may share the work: each starts at another unit, and none computes a unit that exists already.

    Raises:
        OutOfMemory: the device has no memory for the answers to a single pair of images.
    """
    missing, batch = store.missing(), fill_batch(*split.images.size, split.ids.device)
    units, answers, started = 0, 0, time.perf_counter()
    if missing:
        progress.begin("storing logits", sum(len(store.shards()[shard]) for _, shard in missing))
        for unit in _from_own_turn(missing):
            if not store.path(*unit).exists():
                while (rows := _unit_answers(store, unit, teachers, split, batch, progress)) is None:
                    batch = _smaller(batch, split.ids.device)
                store.write(*unit, rows, _arithmetic(teachers, split.ids.device))
                answers += sum(map(len, rows.values()))
                units += 1
        progress.end(size(store.bytes))
    return FillResult(units=units, answers=answers, seconds=time.perf_counter() - started)


def _from_own_turn(units: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the units in an order that starts at the share of this process.

    So processes meet only when each has reached the end of its own share.
    """
    start = len(units) * rank() // world_size()
    return units[start:] + units[:start]


def _unit_answers(
    store: LogitStore,
    unit: tuple[int, int],
    teachers: Mapping[str, Teacher],
    split: Split,
    batch: int,
    progress: Progress,
) -> dict[str, Tensor] | None:
    """Return the logits [places, classes] of each teacher, computed for `batch` places at a time.

    Return None if the device has no memory for that many.
    """
    view, shard = unit
    places = store.shards()[shard]
    chunks = order(store.header.seed, split.ids, view)[places.start : places.stop].split(batch)
    rows: dict[str, list[Tensor]] = {name: [] for name in teachers}
    with suppress(torch.OutOfMemoryError):
        for indices, images in zip(chunks, split.images.feed(chunks, split.ids.device), strict=True):
            for name, logits in _answers(store, teachers, images, split.ids[indices], view).items():
                rows[name].append(logits)
            progress.step(len(indices), note=f"view {view + 1} of {store.views}")
        return {name: torch.cat(logits) for name, logits in rows.items()}
    return None


def _smaller(batch: int, device: torch.device) -> int:
    torch.cuda.empty_cache()
    if batch <= 2:
        raise OutOfMemory(f"{device} has no memory for the teachers' answers to two images; take smaller teachers")
    return batch // 4 * 2


def _arithmetic(teachers: Mapping[str, Teacher], device: torch.device) -> Arithmetic:
    return "bf16" if any(teacher.arithmetic(device) == "bf16" for teacher in teachers.values()) else "fp32"


def _answers(
    store: LogitStore, teachers: Mapping[str, Teacher], images: Tensor, samples: Tensor, view: int
) -> dict[str, Tensor]:
    pixels = render(images, samples, seed=store.header.seed, view=view, spec=store.header.spec).pixels
    return {name: teacher.answer(pixels) for name, teacher in teachers.items()}


@torch.inference_mode()
def check(store: LogitStore, teachers: Mapping[str, Teacher], split: Split, samples: int = 512) -> CheckResult:
    """Recompute the stored answers for about `samples` images, chosen by key, and compare.

    Raises:
        StoreError: a unit is missing or damaged.
    """
    units = list(store.units())
    drawn = Keys(store.header.seed, torch.arange(len(units)), 0).bits("check").argsort()
    errors, agreements, rests, largest = [], [], [], 0.0
    kinds = {_arithmetic(teachers, split.ids.device)}
    per_unit = max(2, samples // min(len(units), 8) // 2 * 2)
    for unit in drawn[:8].tolist():
        view, shard = units[unit]
        places = store.shards()[shard][:per_unit]
        stored = store.read_shard(view, shard).at(torch.arange(len(places)))
        indices = order(store.header.seed, split.ids, view)[places.start : places.stop]
        (images,) = split.images.feed([indices], split.ids.device)
        answers = _answers(store, teachers, images, split.ids[indices], view)
        again = torch.stack([answers[name] for name in store.header.teachers], dim=1).cpu()
        agreements.append((stored.argmax(-1) == again.argmax(-1)).float().flatten())
        if store.header.top_k:
            kept = store.read_unit(view, shard)["indices"][: len(places)].long()
            rests.append((_rest(stored, kept) - _rest(again, kept)).abs())
            stored, again = stored.gather(-1, kept), again.gather(-1, kept)
        errors.append((stored - again).abs().flatten(1))
        largest = max(largest, again.abs().max().item())
        kinds.add(store.arithmetic(view, shard))
    error, share = torch.cat(errors), max(TOLERANCE[kind] for kind in kinds)
    rest = torch.cat(rests).max().item() if rests else None
    return CheckResult(
        samples=len(error),
        max_abs_error=error.max().item(),
        mean_abs_error=error.mean().item(),
        tolerance=share * largest,
        within=error.max().item() <= share * largest and (rest or 0.0) <= share,
        top1_agreement=torch.cat(agreements).mean().item(),
        max_rest_error=rest,
    )


def _rest(logits: Tensor, kept: Tensor) -> Tensor:
    """Return the probability of the classes that are not `kept`, together."""
    return 1 - logits.softmax(-1).gather(-1, kept).sum(-1)

"""The pass that fills a store, and the one that checks it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..data import Split, feed
from ..models import Teacher
from ..views import Keys, order, render
from ..watch import Watch, size
from .store import LogitStore

FILL_BATCH, FILL_BATCH_ON_GPU = 256, 4096


@torch.inference_mode()
def fill(store: LogitStore, teachers: Mapping[str, Teacher], split: Split, watch: Watch) -> dict[str, float]:
    """Compute every unit that is missing. Every teacher answers for the very pixels that the student will see.

    Processes may share the work: under `torchrun` each starts at another unit, and none computes one that is there.

    Returns:
        what this process did: `units`, `answers` (pictures times teachers), `seconds`.
    """
    missing = store.missing()
    done, started = {"units": 0, "answers": 0}, time.perf_counter()
    if missing:
        watch.begin("storing logits", sum(math.ceil(len(store.shards()[shard]) / FILL_BATCH) for _, shard in missing))
        for unit in _from_own_turn(missing):
            if not store.path(*unit).exists():
                done["answers"] += _fill_unit(store, unit, teachers, split, watch)
                done["units"] += 1
        watch.end(size(store.bytes))
    return {**done, "seconds": time.perf_counter() - started}


def _from_own_turn(units: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The units from this process's own start on, so that several meet only when each is at the end of its share."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    start = len(units) * rank // world
    return units[start:] + units[:start]


def _fill_unit(
    store: LogitStore, unit: tuple[int, int], teachers: Mapping[str, Teacher], split: Split, watch: Watch
) -> int:
    view, shard = unit
    laid_out = order(store.header.seed, split.ids, view)
    size = FILL_BATCH_ON_GPU if laid_out.is_cuda else FILL_BATCH
    chunks = laid_out[store.shards()[shard].start : store.shards()[shard].stop].split(size)
    rows: dict[str, list[Tensor]] = {name: [] for name in teachers}
    for indices, images in zip(chunks, feed(split, chunks, split.ids.device), strict=True):
        for name, logits in _answers(store, teachers, images, split.ids[indices], view).items():
            rows[name].append(logits)
        watch.step(math.ceil(len(indices) / FILL_BATCH), note=f"view {view + 1} of {store.views}")
    store.write(view, shard, {name: torch.cat(logits) for name, logits in rows.items()})
    return len(teachers) * sum(map(len, chunks))


def _answers(
    store: LogitStore, teachers: Mapping[str, Teacher], images: Tensor, samples: Tensor, view: int
) -> dict[str, Tensor]:
    pixels = render(images, samples, seed=store.header.seed, view=view, spec=store.header.spec).pixels
    return {name: teacher.answer(pixels) for name, teacher in teachers.items()}


@torch.inference_mode()
def check(store: LogitStore, teachers: Mapping[str, Teacher], split: Split, samples: int = 512) -> dict[str, Any]:
    """Recompute about `samples` of the stored answers, chosen by key, and compare.

    Of top-k answers the stored logits are compared, and the probability of all other classes together.

    Returns:
        `samples`, `max_abs_error` and `mean_abs_error` of the logits, `top1_agreement`, and with top-k
        `max_rest_error`.
    """
    units = list(store.units())
    drawn = Keys(store.header.seed, torch.arange(len(units)), 0).bits("check").argsort()
    errors, agreements, rests = [], [], []
    per_unit = max(2, samples // min(len(units), 8) // 2 * 2)
    for unit in drawn[:8].tolist():
        view, shard = units[unit]
        places = store.shards()[shard][:per_unit]
        stored = store.read_shard(view, shard).at(torch.arange(len(places)))
        indices = order(store.header.seed, split.ids, view)[places.start : places.stop]
        (images,) = feed(split, [indices], split.ids.device)
        answers = _answers(store, teachers, images, split.ids[indices], view)
        again = torch.stack([answers[name] for name in store.header.teachers], dim=1).cpu()
        agreements.append((stored.argmax(-1) == again.argmax(-1)).float().flatten())
        if store.header.top_k:
            kept = store.read_unit(view, shard)["indices"][: len(places)].long()
            rests.append((_rest(stored, kept) - _rest(again, kept)).abs())
            stored, again = stored.gather(-1, kept), again.gather(-1, kept)
        errors.append((stored - again).abs().flatten(1))
    error = torch.cat(errors)
    return {
        "samples": len(error),
        "max_abs_error": error.max().item(),
        "mean_abs_error": error.mean().item(),
        "top1_agreement": torch.cat(agreements).mean().item(),
        **({"max_rest_error": torch.cat(rests).max().item()} if rests else {}),
    }


def _rest(logits: Tensor, kept: Tensor) -> Tensor:
    """The probability of the classes that are not `kept`."""
    return 1 - logits.softmax(-1).gather(-1, kept).sum(-1)

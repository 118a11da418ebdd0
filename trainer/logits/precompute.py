"""The pass that fills a store, and the one that checks it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..data import Preprocessing, Split, to_input
from ..views import Keys, order, render
from ..watch import Watch
from .store import LogitStore

FILL_BATCH = 256


@torch.inference_mode()
def fill(
    store: LogitStore, teachers: Mapping[str, nn.Module], split: Split, preprocessing: Preprocessing, watch: Watch
) -> None:
    """Compute every unit that is missing. Every teacher answers for the very pixels that the student will see."""
    header, missing = store.header, store.missing()
    shards = store.shards()
    if not missing:
        return
    watch.begin("storing logits", sum(math.ceil(len(shards[shard]) / FILL_BATCH) for _, shard in missing))
    for view, shard in missing:
        laid_out = order(header.seed, split.ids, view)
        places = laid_out[shards[shard].start : shards[shard].stop]
        answers: dict[str, list[Tensor]] = {name: [] for name in teachers}
        for indices in places.split(FILL_BATCH):
            for name, logits in _answers(store, teachers, split, preprocessing, view, indices).items():
                answers[name].append(logits)
            watch.step(note=f"view {view + 1} of {header.views}")
        store.write(view, shard, {name: torch.cat(rows) for name, rows in answers.items()})
    watch.end(f"{header.bytes / 1e6:.1f} MB")


def _answers(
    store: LogitStore,
    teachers: Mapping[str, nn.Module],
    split: Split,
    preprocessing: Preprocessing,
    view: int,
    indices: Tensor,
) -> dict[str, Tensor]:
    header = store.header
    pixels = render(split.images[indices], split.ids[indices], seed=header.seed, view=view, spec=header.spec).pixels
    inputs = to_input(pixels, preprocessing)
    return {name: teacher.eval()(inputs).float() for name, teacher in teachers.items()}


@torch.inference_mode()
def check(
    store: LogitStore,
    teachers: Mapping[str, nn.Module],
    split: Split,
    preprocessing: Preprocessing,
    samples: int = 512,
) -> dict[str, float]:
    """Recompute about `samples` of the stored answers, chosen by key, and compare.

    Returns:
        `samples`, `max_abs_error` and `mean_abs_error` of the logits, and `top1_agreement`.
    """
    units = list(store.units())
    drawn = Keys(store.header.seed, torch.arange(len(units)), 0).bits("check").argsort()
    errors, agreements = [], []
    per_unit = max(2, samples // min(len(units), 8) // 2 * 2)
    for unit in drawn[:8].tolist():
        view, shard = units[unit]
        stored = store.read_unit(view, shard)[:per_unit].float()
        places = store.shards()[shard]
        indices = order(store.header.seed, split.ids, view)[places.start : places.start + len(stored)]
        answers = _answers(store, teachers, split, preprocessing, view, indices)
        again = torch.stack([answers[name] for name in store.header.teachers], dim=1).cpu()
        errors.append((stored - again).abs().flatten(1))
        agreements.append((stored.argmax(-1) == again.argmax(-1)).float().flatten())
    error = torch.cat(errors)
    return {
        "samples": len(error),
        "max_abs_error": error.max().item(),
        "mean_abs_error": error.mean().item(),
        "top1_agreement": torch.cat(agreements).mean().item(),
    }

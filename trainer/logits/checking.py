"""The pass that checks a store: it recomputes a sample of the answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor

from ..data import Samples
from ..device import Arithmetic
from ..errors import StoreError
from ..models import Teacher
from ..views import Keys
from .fill import answers_of, arithmetic_of
from .form import codes_of, wide
from .store import LogitStore

TOLERANCE: dict[Arithmetic, float] = {"fp32": 2**-9, "bf16": 2**-4}
"""The largest allowed distance of an answer from the stored one, as a share of the teacher's largest logit. Both are
rounded to float16 (2^-11). The products in bf16 also depend on the batch size: single logits of trained teachers moved
by 1.5 %. If one of the two was computed in bf16, its tolerance counts. With 8 bits, half a step between two codes is
added."""

UNITS, TINY = 8, 1e-30


class CheckResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The comparison of stored answers with recomputed ones.

    Attributes:
        samples: the number of images whose answers were compared.
        max_abs_error: the largest error of a logit, in the unit and of the teacher where it is the largest share of the
            tolerance. Of top-k answers, the stored logits count.
        mean_abs_error: the mean error of all these logits.
        tolerance: the largest allowed `max_abs_error`.
        within: whether all errors are within their tolerance.
        top1_agreement: the share of answers whose largest logit is that of the same class.
        max_rest_error: the largest error of the probability of all other classes together. It exists only for top-k
            answers. Its tolerance is the same share, of 1; with 8 bits, a quarter of half a step is added, because a
            probability changes by at most a quarter of what its logits move.
    """

    samples: int
    max_abs_error: float
    mean_abs_error: float
    tolerance: float
    within: bool
    top1_agreement: float
    max_rest_error: float | None = None


class _Compared(NamedTuple):
    """The comparison of some answers of one unit: N images, T teachers, K stored logits."""

    share: float
    errors_NTK: Tensor
    largest_T: Tensor
    half_step_T: Tensor
    agrees_NT: Tensor
    rest_NT: Tensor | None


@torch.inference_mode()
def check(store: LogitStore, teachers: Mapping[str, Teacher], split: Samples, samples: int = 512) -> CheckResult:
    """Read every unit, and recompute the answers for about `samples` images, which are chosen by key.

    Raises:
        StoreError: a unit is missing or damaged.
    """
    units = list(store.units())
    for unit in units:  # the digest of a unit also covers the answers that are not recomputed
        store.read_unit(*unit)
    drawn = _drawn(store, len(units), 0)[:UNITS]
    compared = [_compare(store, units[number], teachers, split, samples // len(drawn)) for number in drawn.tolist()]
    largest_T = torch.stack([part.largest_T for part in compared]).amax(0)
    _, error, tolerance = max(
        (error / max(allowed, TINY), error, allowed)
        for part in compared
        for error, allowed in zip(
            part.errors_NTK.amax((0, 2)).tolist(), (part.share * largest_T + part.half_step_T).tolist(), strict=True
        )
    )
    rests = [
        (rest, allowed)
        for part in compared
        if part.rest_NT is not None
        for rest, allowed in zip(
            part.rest_NT.amax(0).tolist(), (part.share + part.half_step_T / 4).tolist(), strict=True
        )
    ]
    return CheckResult(
        samples=sum(len(part.errors_NTK) for part in compared),
        max_abs_error=error,
        mean_abs_error=torch.cat([part.errors_NTK.flatten() for part in compared]).mean().item(),
        tolerance=tolerance,
        within=error <= tolerance and all(rest <= allowed for rest, allowed in rests),
        top1_agreement=torch.cat([part.agrees_NT.flatten() for part in compared]).mean().item(),
        max_rest_error=max(rest for rest, _ in rests) if rests else None,
    )


def _drawn(store: LogitStore, count: int, view: int) -> Tensor:
    """Return the numbers up to `count` in a random order, which the store's seed decides."""
    return Keys(store.header.seed, torch.arange(count), view).bits("check").argsort()


def _compare(
    store: LogitStore, unit: tuple[int, int], teachers: Mapping[str, Teacher], split: Samples, samples: int
) -> _Compared:
    (view, shard), (parts, arithmetic) = unit, store.read_unit(*unit)
    places = store.shards()[shard]
    pairs = torch.arange(len(places)).split(2)
    chosen = _drawn(store, len(pairs), 1 + view)[: max(1, samples // 2)].sort().values
    inside = torch.cat([pairs[number] for number in chosen.tolist()])

    rows = split.rows(store.header.seed, view, places).take(inside.to(split.device))
    (images,) = split.feed([rows.indices])
    answers = answers_of(store, teachers, images, rows.ids, view)
    again = torch.stack([answers[name] for name in store.header.teachers], dim=1).cpu()
    stored = store.answers(parts).at(inside)

    kinds, top_k = {arithmetic, arithmetic_of(teachers, split.device)}, store.header.top_k
    agrees_NT = (stored.argmax(-1) == again.argmax(-1)).float()
    largest_T, rest_NT = again.abs().amax((0, 2)), None
    if not top_k:
        errors_NTK = (stored - again).abs()
    else:
        kept = wide(parts["indices"][inside])
        if (kept.sort(-1).values.diff(dim=-1) == 0).any():
            raise StoreError(f"{store.path(*unit)}: damaged (a class is stored twice); remove it and precompute again")
        rest_NT = (_rest(stored, kept) - _rest(again, kept)).abs()
        values = stored.gather(-1, kept)
        best = (values.sort(-1, descending=True).values - again.topk(top_k).values).abs()
        errors_NTK = torch.maximum((values - again.gather(-1, kept)).abs(), best)  # the largest ones, of these classes
    half_step_T = torch.zeros_like(largest_T)
    if store.header.dtype == "int8":  # from the answers themselves: a damaged scale must not allow its own damage
        scales = [codes_of(again[:, k].topk(top_k or store.header.classes).values)[1] for k in range(again.shape[1])]
        half_step_T = torch.stack(scales).float().amax(1) / 2
    return _Compared(max(TOLERANCE[kind] for kind in kinds), errors_NTK, largest_T, half_step_T, agrees_NT, rest_NT)


def _rest(logits: Tensor, kept: Tensor) -> Tensor:
    """Return the probability of the classes that are not `kept`, together."""
    return 1 - logits.softmax(-1).gather(-1, kept).sum(-1)

"""The first reading of shards of which nothing is known: what they hold, and what can't be read in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdk.folders import kinds_of, listed

from ...errors import DataError
from ...progress import Progress, Silent
from ..files import MAX_BAD_SHARE, Input, survey
from ..reading import tell_skipped
from ..split import sample_ids
from .listing import Shard, SplitName
from .tar import Sample, opened

_MEND = "more than 1 %; repair or remove them, or leave them out by --skip-bad"


@dataclass(frozen=True)
class Surveyed:
    """The content of some shards.

    Attributes:
        splits: the shards that can be used, in their splits.
        texts: how often each text that tells a class stands in the shards to train on.
        skipped: the reason for each shard and each sample that can't be used.
    """

    splits: dict[SplitName, list[Shard]]
    texts: Counter[bytes]
    skipped: list[str]


@dataclass(frozen=True)
class _One:
    shard: Shard
    texts: Counter[bytes]
    ids: Tensor
    bad: dict[str, str]
    """The name of each sample that can't be used, by the reason, which names the shard."""


def survey_shards(urls: Sequence[tuple[str, SplitName]], input: Input, skip_bad: bool, progress: Progress) -> Surveyed:
    """Read each shard once, and decode its images.

    Args:
        urls: each shard with its split.

    Raises:
        DataError: more than one in a hundred can't be read, unless `skip_bad`; or two samples have the same name.
    """
    found, broken, bad, samples, ids = Surveyed({}, Counter(), []), list[str](), dict[str, str](), 0, list[Tensor]()
    progress.begin("reading shards", len(urls))
    for url, split in urls:
        try:
            one = _survey_one(url, split != "unlabelled", input)
        except DataError as fault:
            broken.append(str(fault))
        else:
            found.splits.setdefault(split, []).append(one.shard)
            found.texts.update(one.texts if split == "train" else ())
            bad |= one.bad
            samples += one.shard.samples + len(one.bad)
            ids.append(one.ids)
        progress.step(1, url)
    progress.end(f"{samples:,} samples")
    check_broken(broken, len(urls), skip_bad, progress)
    if len(bad) > MAX_BAD_SHARE * samples and not skip_bad:
        names = list(bad.values())
        raise DataError(
            f"{len(bad)} of {samples} samples can't be read ({kinds_of(names)}: {listed(names, 3)}), {_MEND}"
        )
    tell_skipped(list(bad), list(bad.values()), samples, progress)
    _check_ids(ids)
    found.skipped.extend([*broken, *bad])
    return found


def check_broken(broken: Sequence[str], of: int, skip_bad: bool, progress: Progress) -> None:
    """Refuse shards of which more than 1 % can't be read, unless `skip_bad`; tell `progress` of the others.

    Args:
        broken: the reason for each of them, which names it.

    Raises:
        DataError: that many can't be read.
    """
    if len(broken) > MAX_BAD_SHARE * of and not skip_bad:
        raise DataError(f"{len(broken)} of {of} shards can't be read ({listed(broken, 3)}), {_MEND}")
    for reason in broken:
        progress.tell(f"skipped: {reason}")


def _survey_one(url: str, is_labelled: bool, input: Input) -> _One:
    tar = opened(url)
    samples = tar.samples()
    reasons = {row: reason for row, sample in enumerate(samples) if (reason := _lacking(sample, is_labelled))}
    whole = [row for row in range(len(samples)) if row not in reasons]
    _, unreadable = survey([tar.file(samples[row]) for row in whole], input, Silent())
    reasons |= {whole[index]: fault for index, fault in unreadable.items()}
    good = [sample for row, sample in enumerate(samples) if row not in reasons]
    if not good:
        raise DataError(f"{url}: no sample of an image{' and its class' * is_labelled} in it; pack it again")
    shard = Shard(
        url=url,
        samples=len(good),
        bytes=tar.bytes,
        sha256=tar.sha256,
        bad=tuple(sorted(reasons)),
        labelled=is_labelled,
    )
    texts = Counter(sample.label or b"" for sample in good)
    bad = {f"{url}: {reason}": samples[row].name for row, reason in sorted(reasons.items())}
    return _One(shard, texts, sample_ids([sample.name for sample in good]), bad)


def _lacking(sample: Sample, is_labelled: bool) -> str:
    if not sample.size:
        return f"{sample.name}: no image"
    return f"{sample.name}: no class, a member {sample.name}.cls" if is_labelled and not sample.label else ""


def _check_ids(parts: Sequence[Tensor]) -> None:
    ids = torch.cat([torch.empty(0, dtype=torch.int64), *parts])
    if again := len(ids) - len(ids.unique()):
        raise DataError(
            f"{again:,} samples have the name of another one; give each shard once, and rename samples whose names "
            "repeat in other shards"
        )

"""The reading of data in shards: from a list, or from the shards that a user names, to splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ...errors import DataError
from ...progress import Progress
from ...recipe import DataRecipe
from ..dataset import Dataset
from ..files import Input, Preprocessing, check_memory
from ..layout import LabelledFile, split_of_source
from ..reading import default_size, preprocessing_of, read
from ..split import Split
from .listing import Shard, ShardList, SplitName, expanded, is_pattern, list_of, read_list
from .stream import OpenShard, ShardSamples, open_shard
from .survey import check_broken, survey_shards
from .tar import holds_samples, local_path, opened

AnyShard = TypeVar("AnyShard")


def are_shards(sources: Sequence[str | Path]) -> bool:
    """Return whether the sources are shards: a list of them, URLs, a pattern, or tars in webdataset's layout.

    Raises:
        DataError: some of them are, and others can't be.
    """
    names = list(map(str, sources))
    if not (shard := next(filter(_is_shard, names), None)):
        return False
    if other := next((name for name in names if not _is_shard(name) and not name.lower().endswith(".tar")), None):
        raise DataError(f"{other}: not in shards, but {shard} is; pack both together with `libkd-sdk pack`")
    return True


def _is_shard(source: str) -> bool:
    return list_of(source) is not None or is_pattern(source) or holds_samples(source)


@dataclass(frozen=True)
class _Found:
    """The shards of a data set.

    Attributes:
        labels: the class names.
        numbers: the number of a class by the text that stands for it in a tar.
        counts: the number of labelled images to train on of each class, int64 [classes].
        splits: the shards of each split.
        skipped: the reason for each shard or sample that is left out.
    """

    labels: tuple[str, ...]
    numbers: dict[bytes, int]
    counts: Tensor
    splits: dict[SplitName, list[Shard]]
    skipped: list[str]


def load_shards(
    sources: Sequence[str | Path],
    unlabelled: Sequence[str | Path],
    how: DataRecipe,
    *,
    size_step: int,
    skip_bad: bool,
    progress: Progress,
) -> Dataset:
    """Return the data in shards. The images to train on are streamed; those for validation and the test are read.

    A list of shards tells their digests, so that only their sizes are compared here. Other shards are read once. If
    they have no split for validation or for the test, a shard of those to train on is held back for each.

    Raises:
        DataError: there are no such shards, or they can't be used; the message says why.
    """
    if how.labels < 1:
        raise DataError("data.labels is below 1, but shards keep their labels; give unlabelled shards by --unlabelled")
    more: list[tuple[str, SplitName]] = [(url, "unlabelled") for url in _unlabelled_urls(unlabelled)]
    if (place := _list_in(sources)) is not None:
        listing = read_list(place)
        first = [shard.url for shard in listing.splits.get("train", ())[:1]]
        preprocessing = _preprocessing(first, how, size_step, progress)
        found = _listed(listing, skip_bad, progress)
        if more:
            extra = survey_shards(more, preprocessing.input, skip_bad, progress)
            found.splits.setdefault("unlabelled", []).extend(extra.splits.get("unlabelled", []))
            found.skipped.extend(extra.skipped)
    else:
        urls = [(url, _split_of(url)) for url in expanded(list(map(str, sources)))]
        first = [url for url, split in urls if split == "train"][:1]
        preprocessing = _preprocessing(first, how, size_step, progress)
        surveyed = survey_shards([*urls, *more], preprocessing.input, skip_bad, progress)
        texts = surveyed.texts
        labels, numbers = _classes(texts)
        counts = torch.tensor([texts[text] for text in numbers], dtype=torch.int64)
        found = _Found(labels, numbers, counts, surveyed.splits, surveyed.skipped)
    return _dataset(found, preprocessing, progress)


def _list_in(sources: Sequence[str | Path]) -> str | None:
    """Return the place of the list of shards that the sources are.

    Raises:
        DataError: they are a list and something else.
    """
    places = [list_of(str(source)) for source in sources]
    if len(places) > 1 and any(places):
        raise DataError(f"{sources[0]} and {sources[1]}: a list of shards goes with no other data; pack all together")
    return places[0]


def _unlabelled_urls(sources: Sequence[str | Path]) -> list[str]:
    for source in map(str, sources):
        if list_of(source) or not (is_pattern(source) or source.lower().endswith(".tar")):
            raise DataError(
                f"{source}: not a shard, but --data is in shards; give tars of images, or pack it with --unlabelled"
            )
    return expanded(list(map(str, sources)))


def _split_of(url: str) -> SplitName:
    told = split_of_source(Path(url))
    return "val" if told == "val" else "test" if told == "test" else "train"


def _preprocessing(first: Sequence[str], how: DataRecipe, size_step: int, progress: Progress) -> Preprocessing:
    if not first:
        raise DataError("no shards to train on; give some whose names do not say val or test")
    if (size := how.size) is None:
        tar = opened(first[0])
        size = default_size([tar.file(sample) for sample in tar.samples() if sample.size], size_step, progress)
    return preprocessing_of(size, how)


def _listed(listing: ShardList, skip_bad: bool, progress: Progress) -> _Found:
    """Return the shards of a list, without those on this machine that are missing or have another size."""
    splits: dict[SplitName, list[Shard]] = {}
    broken = list[str]()
    for split, shards in listing.splits.items():
        for shard in shards:
            if fault := _fault_of(shard):
                broken.append(f"{shard.url}: {fault}")
            else:
                splits.setdefault(split, []).append(shard)
    check_broken(broken, sum(map(len, listing.splits.values())), skip_bad, progress)
    return _Found(listing.labels, _by_number(listing.labels), torch.tensor(listing.counts), splits, broken)


def _by_number(labels: Sequence[str]) -> dict[bytes, int]:
    return {str(number).encode(): number for number in range(len(labels))}


def _fault_of(shard: Shard) -> str:
    path = local_path(shard.url)
    try:
        is_other = path is not None and path.stat().st_size != shard.bytes
    except OSError as fault:
        return fault.strerror or "missing"
    return "not of the size in the list" if is_other else ""


def _classes(texts: Counter[bytes]) -> tuple[tuple[str, ...], dict[bytes, int]]:
    """Return class names for the texts in the tars, and the number of each text. Numbers are sorted as numbers."""
    in_order = sorted(texts, key=int) if all(map(bytes.isdigit, texts)) else sorted(texts)
    try:
        labels = tuple(text.decode() for text in in_order)
    except UnicodeDecodeError as fault:
        raise DataError(f"class {fault.object!r}: not UTF-8; rename it in the shards") from fault
    return labels, {text: number for number, text in enumerate(in_order)}


def _dataset(found: _Found, preprocessing: Preprocessing, progress: Progress) -> Dataset:
    if len(found.labels) < 2:
        raise DataError("the shards to train on have fewer than two classes; a classifier needs two or more")
    if not found.splits.get("train"):
        raise DataError("no shard to train on can be read; repair them")
    input, splits = preprocessing.input, found.splits
    kept = [_in_memory(found, split, splits[split], input, progress) for split in ("val", "test") if split in splits]
    while len(kept) < 2:  # a single one is the test, as everywhere
        kept.insert(0, _held_back(found, input, progress))
    train = ShardSamples(tuple(splits["train"]), found.numbers, found.counts, input)
    more = tuple(splits.get("unlabelled", ()))
    return Dataset(
        train=train,
        validation=kept[0],
        test=kept[1],
        labels=found.labels,
        preprocessing=preprocessing,
        skipped=found.skipped,
        unlabelled=ShardSamples(more, found.numbers, torch.zeros_like(found.counts), input) if more else None,
    )


def _in_memory(found: _Found, split: SplitName, shards: Sequence[Shard], input: Input, progress: Progress) -> Split:
    check_memory(sum(shard.samples for shard in shards), input)
    open_ones = (open_shard(shard, found.numbers) for shard in shards)
    files = chain.from_iterable(_labelled(shard, split, found.labels) for shard in open_ones)
    return read(list(files), found.labels, input, progress)[0]


def _held_back(found: _Found, input: Input, progress: Progress) -> Split:
    """Take a shard from those to train on. Which one it is depends on their content alone."""
    train = found.splits["train"]
    if len(train) < 2:
        raise DataError("too few shards to hold one back for the test; give shards named val or test, or smaller ones")
    chosen = min(train, key=lambda shard: shard.sha256)
    train.remove(chosen)
    split = _in_memory(found, "train", [chosen], input, progress)
    found.counts.sub_(split.counts(len(found.labels)))
    progress.tell(f"held back: {len(split):,} samples, {chosen.url}; shards named val or test would replace it")
    return split


def shard_files(sources: Sequence[str | Path]) -> list[LabelledFile]:
    """Return the images of the shards for the test, or else for validation, or else of one shard to train on.

    Raises:
        DataError: there are no such shards, or they can't be read.
    """
    if (place := _list_in(sources)) is not None:
        listing = read_list(place)
        split, shards = _first_of({split: list(shards) for split, shards in listing.splits.items()})
        open_ones = (open_shard(shard, _by_number(listing.labels)) for shard in shards)
        return [file for shard in open_ones for file in _labelled(shard, split, listing.labels)]
    found: dict[SplitName, list[str]] = {}
    for url in expanded(list(map(str, sources))):
        found.setdefault(_split_of(url), []).append(url)
    split, urls = _first_of(found)
    tars = [(tar, tar.samples()) for tar in map(opened, urls)]
    return [
        LabelledFile(tar.file(sample), split, (sample.label or b"").decode(errors="replace"))
        for tar, samples in tars
        for sample in samples
        if sample.size
    ]


def _first_of(splits: Mapping[SplitName, Sequence[AnyShard]]) -> tuple[SplitName, Sequence[AnyShard]]:
    for split in ("test", "val"):
        if split in splits:
            return split, splits[split]
    if not splits.get("train"):
        raise DataError("no shards of images with classes; name some")
    return "train", splits["train"][:1]


def _labelled(shard: OpenShard, split: str, labels: Sequence[str]) -> list[LabelledFile]:
    return [LabelledFile(shard.file(row), split, labels[number]) for row, number in enumerate(shard.labels.tolist())]

"""Samples that are streamed from shards. Of the samples, only those of shards in use are known in memory.

The order of a view is that of the shards, one after another, and keyed within each; so pairs never cross a shard, and a
shard is a unit of the logit store. In an epoch, the shards lie in a keyed order, each with its pairs shuffled, like a
tape that is cut into equal parts: one for each lane of a batch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from hashlib import sha256
from itertools import accumulate, tee
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import DataError, RecipeError
from ...lanes import ONE_LANE, Lanes
from ...progress import Silent
from ...views import order, seed_of
from ..feed import WORKERS, ahead, decoded
from ..files import Input, pixels_of, survey
from ..images import FileImages
from ..samples import Rows, joined, spread
from ..sources import ImageFile
from ..split import UNLABELLED, Split, sample_ids
from .listing import Shard
from .tar import ImageInTar, LocalTar, Sample, descriptors, opened

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class OpenShard:
    """A shard whose samples are known. Arrays take little memory, also in the workers that are forked from here.

    Attributes:
        tar: the shard on this machine.
        names: of the n samples that are used.
        offsets, sizes: where their images lie in the tar, int64 [n].
        ids, labels: int64 [n].
    """

    tar: LocalTar
    names: list[str]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    ids: Tensor
    labels: Tensor

    def image(self, row: int) -> ImageInTar:
        return self.tar.image(self._sample(row))

    def file(self, row: int) -> ImageFile:
        return self.tar.file(self._sample(row))

    def _sample(self, row: int) -> Sample:
        return Sample(self.names[row], None, int(self.offsets[row]), int(self.sizes[row]))


def open_shard(shard: Shard, numbers: Mapping[bytes, int]) -> OpenShard:
    """Return a shard, fetched and compared with its digest.

    Args:
        numbers: the number of a class by the text that stands for it in a tar.

    Raises:
        DataError: it can't be read, or is not the one that was listed.
    """
    tar = opened(shard.url)
    if tar.sha256 != shard.sha256:
        raise DataError(f"{shard.url}: not the shard that was packed or read before; put it back, or pack again")
    bad = set(shard.bad)
    samples = [sample for row, sample in enumerate(tar.samples()) if row not in bad]
    if len(samples) != shard.samples:
        raise DataError(f"{shard.url}: {len(samples)} samples and not {shard.samples}; pack it again")
    labels = torch.full((len(samples),), UNLABELLED)
    if shard.labelled:
        try:
            labels = torch.tensor([numbers[sample.label or b""] for sample in samples])
        except KeyError as fault:
            raise DataError(f"{shard.url}: class {fault.args[0]!r} is not in the list; pack it again") from fault
    names = [sample.name for sample in samples]
    offsets = np.array([sample.offset for sample in samples], np.int64)
    sizes = np.array([sample.size for sample in samples], np.int64)
    return OpenShard(tar, names, offsets, sizes, sample_ids(names), labels)


@dataclass(frozen=True, eq=False)
class ShardSamples:
    """The samples of some shards; see `trainer.data.Samples`.

    Attributes:
        shards: the shards.
        numbers: see `open_shard`.
        class_counts: the number of labelled images of each class, int64 [classes].
        input: how images become pixels.
        device: where the pixels are needed.
    """

    shards: tuple[Shard, ...]
    numbers: Mapping[bytes, int]
    class_counts: Tensor
    input: Input
    device: torch.device = CPU

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave out the shards that are open: another process opens its own."""
        return ShardSamples, tuple(getattr(self, field.name) for field in fields(self))

    @property
    def size(self) -> tuple[int, int]:
        return self.input.height, self.input.width

    @property
    def nbytes(self) -> int:
        return 0

    @property
    def is_streamed(self) -> bool:
        return True

    @property
    def unit_sizes(self) -> tuple[int, ...]:
        return tuple(shard.samples for shard in self.shards)

    @cached_property
    def _starts(self) -> list[int]:
        """The place of the first sample of each shard, and the number of all samples."""
        return [0, *accumulate(self.unit_sizes)]

    def __len__(self) -> int:
        return self._starts[-1]

    def joined(self, other: ShardSamples) -> ShardSamples:
        counts = self.class_counts + other.class_counts
        return replace(self, shards=self.shards + other.shards, class_counts=counts)

    def to(self, device: torch.device, *, pixels: bool = True) -> ShardSamples:
        return replace(self, device=device)

    def hash(self) -> str:
        """Return a hash of the shards, and of the size of the pixels that are made of them."""
        parts = [(shard.sha256, shard.bad, shard.labelled) for shard in self.shards]
        return sha256(repr((*self.size, parts)).encode()).hexdigest()[:16]

    def counts(self, classes: int) -> Tensor:
        return self.class_counts.to(self.device)

    def few(self, count: int) -> Split:
        """Return at most `count` of the samples, as files: evenly spread over as few shards as hold them."""
        files, ids, labels = list[ImageFile](), list[Tensor](), list[Tensor]()
        for shard in self.shards:
            if len(files) == count:
                break
            there = open_shard(shard, self.numbers)
            rows = spread(shard.samples, count - len(files))
            files += [there.file(row) for row in rows.tolist()]
            ids.append(there.ids[rows])
            labels.append(there.labels[rows])
        digests, bad = survey(files, self.input, Silent())
        if bad:
            raise DataError(bad[min(bad)])
        images = FileImages(files, self.input, digests)
        return Split(images, torch.cat(labels), torch.cat(ids), [file.name for file in files]).to(self.device)

    def rows(self, seed: int, view: int, places: range) -> Rows:
        number = self._shard_at(places.start)
        start = self._starts[number]
        whole = self._placed(number, seed, view)
        return self._on_device(whole.take(slice(places.start - start, places.stop - start)))

    def steps(self, batch: int, lanes: Lanes = ONE_LANE) -> int:
        steps = self._pairs // lanes.count // (batch // (2 * lanes.count))
        if not steps:
            raise RecipeError(f"{len(self):,} samples in shards do not fill a batch of {batch}; set a smaller batch")
        return steps

    def epoch(
        self, seed: int, view: int, epoch: int, batch: int, lanes: Lanes = ONE_LANE, start: int = 0
    ) -> Iterator[Rows]:
        tape, of_a_lane, own = self._tape(seed, epoch), batch // (2 * lanes.count), lanes.own_numbers()
        self._open.room = 2 * len(own) + 2
        steps, length = self.steps(batch, lanes), self._pairs // lanes.count
        walks = [
            self._walk(
                tape,
                range(lane * length + start * of_a_lane, lane * length + steps * of_a_lane, of_a_lane),
                partial(self._shuffled, seed=seed, view=view, epoch=epoch),
            )
            for lane in own
        ]
        return (self._on_device(joined(list(parts))) for parts in zip(*walks, strict=True))

    def _on_device(self, rows: Rows) -> Rows:
        """Return samples with their ids and labels on the device, without waiting for it.

        The CPU reads their images by the indices, and the teachers' answers by the places.
        """
        if self.device.type == "cpu":
            return rows
        pinned = (column.pin_memory().to(self.device, non_blocking=True) for column in (rows.ids, rows.labels))
        return Rows(rows.indices, rows.places, *pinned)

    @property
    def _pairs(self) -> int:
        return sum(shard.samples // 2 for shard in self.shards)

    def _tape(self, seed: int, epoch: int) -> _Tape:
        """Return the keyed order of the shards in an epoch. A shard without a pair is not in it."""
        known = torch.tensor([int(shard.sha256[:15], 16) for shard in self.shards])
        shards = [n for n in order(seed_of(seed, "shards"), known, epoch).tolist() if self.shards[n].samples > 1]
        return _Tape(shards, list(accumulate(self.shards[number].samples // 2 for number in shards)))

    def _walk(self, tape: _Tape, steps: range, shuffled: Callable[[int], Rows]) -> Iterator[Rows]:
        """Give the samples of one lane for each step.

        Args:
            steps: the first pair of each step, on the tape.
            shuffled: returns the samples of a shard, pair after pair.
        """
        at, size, place, waiting = steps.start, 2 * steps.step, bisect_right(tape.ends, steps.start), list[Rows]()
        while at < steps.stop:
            if tape.ends[place] < steps.stop:
                self._open(tape.shards[place + 1])  # while this one is walked
            first, end = tape.start(place), min(tape.ends[place], steps.stop)
            waiting.append(shuffled(tape.shards[place]).take(slice(2 * (at - first), 2 * (end - first))))
            together = joined(waiting)
            whole = len(together) // size * size
            yield from together.take(slice(whole)).split_by(size)
            waiting = [together.take(slice(whole, None))]
            at, place = end, place + 1

    def _shuffled(self, number: int, seed: int, view: int, epoch: int) -> Rows:
        """Return the samples of a shard with the pairs of a view in the order of an epoch."""
        placed = self._placed(number, seed, view)
        pairs = torch.arange(len(placed) // 2 * 2).unflatten(0, (-1, 2))
        shuffle = order(seed_of(seed, "epoch"), placed.ids[pairs[:, 0]], epoch)
        return placed.take(pairs[shuffle].flatten())

    def _placed(self, number: int, seed: int, view: int) -> Rows:
        """Return the samples of a shard in the order of a view."""
        shard, start = self._open(number).result(), self._starts[number]
        laid_out = order(seed, shard.ids, view)
        places = torch.arange(start, start + len(laid_out))
        return Rows(start + laid_out, places, shard.ids[laid_out], shard.labels[laid_out])

    def _shard_at(self, place: int) -> int:
        return bisect_right(self._starts, place) - 1

    def feed(self, chunks: Iterable[Tensor], *, workers: int = WORKERS) -> Iterator[Tensor]:
        given, asked = tee(map(self._found, chunks))
        tasks = ([shard.image(row) for shard, row in found] for found in asked)
        pin = self.device.type == "cuda"
        coming = ahead(decoded(self._decode, tasks, workers, pin=pin), self.device)
        return (pixels for pixels, _ in zip(coming, given, strict=True))  # `given` keeps the shards open until then

    def _found(self, indices: Tensor) -> list[tuple[OpenShard, int]]:
        places = [(index, self._shard_at(index)) for index in indices.tolist()]
        shards = {number: self._open(number).result() for number in sorted({number for _, number in places})}
        return [(shards[number], index - self._starts[number]) for index, number in places]

    def _decode(self, images: list[ImageInTar]) -> Tensor:
        rows = np.empty((len(images), *self.size, 3), np.uint8)
        with descriptors(images) as found:
            for row, image in enumerate(images):
                rows[row] = pixels_of(ImageFile(image.name, partial(image.content, found[image.tar])), self.input)
        return torch.from_numpy(rows)

    @cached_property
    def _open(self) -> _OpenShards:
        return _OpenShards(self.shards, self.numbers)


class _OpenShards:
    """The shards that are open. A thread opens them one after another.

    Attributes:
        room: how many stay open; those that were used last.
    """

    def __init__(self, shards: Sequence[Shard], numbers: Mapping[bytes, int]) -> None:
        self._shards, self._numbers, self.room = shards, numbers, 2
        self._opening = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self._open = OrderedDict[int, Future[OpenShard]]()

    def __call__(self, number: int) -> Future[OpenShard]:
        """Return a shard that is open, or will be soon."""
        if number not in self._open:
            self._open[number] = self._opening.submit(open_shard, self._shards[number], self._numbers)
        self._open.move_to_end(number)
        while len(self._open) > self.room:
            self._open.popitem(last=False)
        return self._open[number]


class _Tape(NamedTuple):
    """The shards in the order of an epoch, and the number of pairs up to the end of each."""

    shards: list[int]
    ends: list[int]

    def start(self, place: int) -> int:
        return self.ends[place - 1] if place else 0

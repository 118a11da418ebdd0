"""The packing of images into shards."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from runtimes.cores import usable_cores
from sdk.errors import UsageError
from sdk.files import disk_failures, finish, unfinished
from sdk.folders import SUFFIXES

from ...errors import DataError
from ...progress import Progress
from ...recipe import DataRecipe
from ...views import order
from ..division import division
from ..files import check_share, content_of, pixels_of
from ..layout import LabelledFile
from ..named import Named
from ..reading import labels_of, preprocessing_of, tell_skipped
from ..sources import ImageFile
from ..split import UNLABELLED, sample_ids
from .listing import LIST, Shard, ShardList, SplitName, write_list

_OWN = re.compile(r"(train|val|test|unlabelled)-\d{6}\.tar|\.[\w-]+\.(tar|json)\.[0-9a-f]+")
_LOOK_AHEAD, _TOGETHER = 512, 16
"""The images that are prepared ahead, and those of a thread: a small image takes less time than a call of a thread."""


class Form(NamedTuple):
    """The form in which images are stored.

    Attributes:
        size: the height and the width, in pixels; None stores the file as it is.
        quality: that of a JPEG, 1..100; None stores a PNG, which has exactly the pixels.
    """

    size: int | None = None
    quality: int | None = None

    def of(self, file: ImageFile) -> tuple[str, bytes]:
        """Return the suffix and the bytes that are stored of an image.

        Raises:
            DataError: it can't be read.
        """
        if self.size is None:
            content = content_of(file)
            pixels_of(ImageFile(file.name, lambda: content), preprocessing_of(8, DataRecipe()).input)  # it is whole
            return _suffix(file.name, content), content
        return self.encoded(Image.fromarray(pixels_of(file, preprocessing_of(self.size, DataRecipe()).input)))

    def encoded(self, image: Image.Image) -> tuple[str, bytes]:
        """Return the suffix and the bytes of an image that has the right size."""
        stored = io.BytesIO()
        if self.quality is None:
            image.save(stored, "PNG")
        else:
            image.save(stored, "JPEG", quality=self.quality, subsampling=0)
        return "png" if self.quality is None else "jpg", stored.getvalue()


def _suffix(name: str, content: bytes) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in SUFFIXES:
        with Image.open(io.BytesIO(content)) as image:
            suffix = f".{(image.format or 'png').lower()}"
    return suffix[1:]


@dataclass(frozen=True)
class Wanted:
    """Images to pack.

    Attributes:
        files: the images.
        labels: the class names.
        classes: the class of each image, int64 [N]; `UNLABELLED` where it is not known.
        places: what is known of the split of each; see `LabelledFile`.
    """

    files: list[ImageFile]
    labels: tuple[str, ...]
    classes: Tensor
    places: list[str]


def wanted_of(found: Sequence[LabelledFile], unlabelled: Sequence[LabelledFile]) -> Wanted:
    """Return the images to pack from some folders and archives.

    Raises:
        DataError: they are no data to train on; see `trainer.data.reading.labels_of`.
    """
    labels, everything = labels_of(found), [*found, *unlabelled]
    number = {label: index for index, label in enumerate(labels)}
    classes = torch.tensor([number.get(item.label, UNLABELLED) for item in everything], dtype=torch.int64)
    return Wanted([item.file for item in everything], labels, classes, [item.split for item in everything])


def wanted_of_named(named: Named, unlabelled: Sequence[LabelledFile]) -> Wanted:
    """Return the images to pack of a named dataset, which become PNG files, and further ones without labels."""
    whole = named.train.joined(named.test)
    pixels = whole.pixels().numpy()
    files = [ImageFile(name, partial(_png, pixels[row])) for row, name in enumerate(whole.names)]
    places = [name.partition("/")[0] for name in whole.names] + ["unlabelled"] * len(unlabelled)
    classes = torch.cat([whole.labels, torch.full((len(unlabelled),), UNLABELLED)])
    return Wanted([*files, *(item.file for item in unlabelled)], named.labels, classes, places)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    return Form().encoded(Image.fromarray(pixels))[1]


def pack(
    wanted: Wanted,
    out: Path,
    how: DataRecipe,
    form: Form,
    *,
    per_shard: int,
    skip_bad: bool,
    progress: Progress,
) -> ShardList:
    """Write images into shards of `per_shard` samples in a keyed order, and a list of them. Return the list.

    The ids of the samples are those of the images. Missing splits are held back as for folders.

    Raises:
        UsageError: `out` holds something else.
        DataError: a class has too few images, or too many images can't be read.
        FileError: the disk is full, or the folder can't be written.
    """
    _clear(out)
    ids = sample_ids([file.name for file in wanted.files])
    found = division(wanted.classes, ids, wanted.places, wanted.labels, how)
    bad: dict[int, str] = {}
    splits: dict[SplitName, tuple[Shard, ...]] = {}
    counts = torch.zeros(len(wanted.labels), dtype=torch.int64)
    names: tuple[SplitName, ...] = ("train", "val", "test", "unlabelled")
    for name, members in zip(names, found, strict=True):
        if not len(members):
            continue
        members = members[order(0, ids[members], 0, "pack")]
        progress.begin(f"packing {name}", len(members))
        shards = list[Shard]()
        samples = _samples(wanted, members.tolist(), form, bad, progress)
        for first in samples:
            path = out / f"{name}-{len(shards):06d}.tar"
            shards.append(_write(path, chain([first], islice(samples, per_shard - 1))))
        progress.end(f"{len(shards):,} shard{'s' * (len(shards) != 1)}")
        if not skip_bad:
            check_share(bad, wanted.files)
        readable = torch.tensor([index for index in members.tolist() if index not in bad], dtype=torch.int64)
        classes = wanted.classes[readable]
        if name == "train":
            counts = torch.bincount(classes, minlength=len(wanted.labels))
        splits[name] = tuple(shards)
    tell_skipped(
        [bad[n] for n in sorted(bad)], [wanted.files[n].name for n in sorted(bad)], len(wanted.files), progress
    )
    if not counts.all():
        raise DataError(
            f"class {wanted.labels[int(counts.argmin())]!r} has no image to train on that can be read; add some"
        )
    listing = ShardList(format="libkd-shards/1", labels=wanted.labels, counts=tuple(counts.tolist()), splits=splits)
    write_list(out, listing)
    return listing


def _clear(out: Path) -> None:
    """Remove what a pass that was killed has left; refuse a folder with anything else."""
    names = [path.name for path in out.iterdir()] if out.is_dir() else []
    if (out.exists() and not out.is_dir()) or not all(map(_OWN.fullmatch, names)):
        what = "it is packed already" if LIST in names else "it holds something else"
        raise UsageError(f"{out}: {what}; choose another --out")
    for name in names:
        with disk_failures(out / name):
            (out / name).unlink()


class _Sample(NamedTuple):
    key: str
    label: bytes
    suffix: str
    content: bytes


def _samples(
    wanted: Wanted, members: Sequence[int], form: Form, bad: dict[int, str], progress: Progress
) -> Iterator[_Sample]:
    """Give the samples in order, prepared by threads. Why an image can't be read is kept in `bad`."""

    def prepared(index: int) -> _Sample | None:
        try:
            suffix, content = form.of(wanted.files[index])
        except DataError as fault:
            bad[index] = str(fault)
            return None
        label = b"" if wanted.classes[index] == UNLABELLED else str(int(wanted.classes[index])).encode()
        return _Sample(key_of(wanted.files[index].name), label, suffix, content)

    waiting = iter(members)
    with ThreadPoolExecutor(min(32, usable_cores() + 4)) as pool:  # some wait for the disk
        while block := list(islice(waiting, _LOOK_AHEAD)):
            groups = [block[start : start + _TOGETHER] for start in range(0, len(block), _TOGETHER)]
            for group in pool.map(lambda indices: list(map(prepared, indices)), groups):
                yield from filter(None, group)
            progress.step(len(block))


def key_of(name: str) -> str:
    """Return the key of a sample: its name, without dots in the last part, where webdataset looks for suffixes."""
    folder, slash, last = name.replace("%", "%25").rpartition("/")
    key = folder + slash + last.replace(".", "%2E")
    return "%5F" + key[1:] if key.startswith("__") else key


def _write(path: Path, samples: Iterable[_Sample]) -> Shard:
    from webdataset.writer import TarWriter

    count, is_labelled = 0, False
    with unfinished(path) as file:
        with TarWriter(file, encoder=False, mtime=0, user="", group="") as tar:
            tar.tarstream.format = tarfile.GNU_FORMAT  # no further header for names that are not ASCII
            for sample in samples:
                label = {"cls": sample.label} if sample.label else {}
                tar.write({"__key__": sample.key, sample.suffix: sample.content, **label})
                count, is_labelled = count + 1, bool(label)
        finish(file, path)
    with path.open("rb") as whole:
        digest = hashlib.file_digest(whole, "sha256").hexdigest()
    size = path.stat().st_size
    return Shard(url=path.name, samples=count, bytes=size, sha256=digest, labelled=is_labelled)

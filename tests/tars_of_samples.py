"""Shards for tests: packed by us or written by webdataset, and what training sees of them."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
from webdataset.writer import TarWriter

from folders import PNG
from trainer.data import Form, pack, wanted
from trainer.data.files import digest
from trainer.lanes import ONE_LANE, Lanes
from trainer.progress import Silent
from trainer.recipe import DataRecipe

AS_THEY_ARE = Form()


def pack_into(out: Path, source: Path | str, form: Form = AS_THEY_ARE, per_shard: int = 50, **options) -> Path:
    extra = options.pop("unlabelled", ())
    images = wanted([source], unlabelled=extra)
    pack(images, out, DataRecipe(), form, per_shard=per_shard, **{"skip_bad": False, "progress": Silent(), **options})
    return out


def by_id(samples) -> dict[int, tuple[int, str]]:
    """Return the class of each sample of a split, and a digest of its pixels."""
    rows = zip(samples.ids.tolist(), samples.labels.tolist(), samples.pixels(), strict=True)
    return {key: (label, digest(pixels.numpy()).hex()) for key, label, pixels in rows}


def streamed(samples, lanes: Lanes = ONE_LANE, batch: int = 2, **epoch) -> dict[int, tuple[int, str]]:
    """Return the same of what an epoch shows."""
    rows = list(samples.epoch(epoch.get("seed", 0), 0, epoch.get("number", 0), batch, lanes))
    found = {}
    for one, pixels in zip(rows, samples.feed(one.indices for one in rows), strict=True):
        for key, label, image in zip(one.ids.tolist(), one.labels.tolist(), pixels, strict=True):
            assert key not in found, "twice in an epoch"
            found[key] = (label, digest(image.numpy()).hex())
    return found


def units_of(samples) -> list[range]:
    ends = np.cumsum(samples.unit_sizes).tolist()
    return [range(end - size, end) for end, size in zip(ends, samples.unit_sizes, strict=True)]


def shard_by_hand(path: Path, samples: dict[str, dict[str, bytes]], tar_format: int = tarfile.USTAR_FORMAT) -> Path:
    with path.open("wb") as file, TarWriter(file, encoder=False) as writer:
        writer.tarstream.format = tar_format
        for key, members in samples.items():
            writer.write({"__key__": key, **members})
    return path


def simple(count: int, prefix: str = "", labels: tuple[bytes, ...] = (b"0", b"1")) -> dict[str, dict[str, bytes]]:
    return {f"{prefix}{n:04d}": {"png": PNG, "cls": labels[n % len(labels)]} for n in range(count)}

"""The logit store: a folder with a header and one safetensors file for each (view, shard). See `spec/store.md`.

A shard is a range of places in the keyed order of the view, in which neighbours are pairs. A file gets its name only
when it is whole, and its content depends on nothing but the header. So a restart computes what is missing, several
processes can fill one store, and a store with more views serves a run that needs fewer. A file carries its own place
and the hash of the header, which reading compares.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from sdk.files import read_regular, sha256, write_whole

from ..device import Arithmetic, free_bytes
from ..errors import StoreError
from ..tensors import TensorFile
from ..units import ALL, Part
from ..views import ViewSpec
from .form import Answers, DType, Form

HEADER = "store.json"
MAX_HEADER_BYTES = 2**24

RESIDENT_BYTES = 4 * 2**30
"""The largest number of bytes of answers that are kept on the training device; at most a quarter of a GPU's free memory
is used for them."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that stored logits depend on. A run uses a store only if it agrees with every field.

    Attributes:
        spec, spec_hash: the spec of the views and its hash, which also covers the way the views are computed.
        data: the hash of the training images.
        seed: the seed of the views.
        samples, classes: the number of images and of classes.
        dtype: the numbers that stand for logits: `float16`, or `int8` with a scale and an offset for each answer.
        shard: the number of places in one file, unless `shards` says otherwise.
        shards: the number of places in each file of a view, if the images are in shards: one file for each of them.
        top_k: how many of the largest logits of an answer are stored, with the mass of the others; 0 stores all logits.
        teachers: the hash of each teacher's weights by its name, in the order of the bias tokens.
    """

    format: str = "libkd-logits/2"
    spec: ViewSpec
    spec_hash: str
    data: str
    seed: int
    samples: int
    classes: int
    dtype: DType = "float16"
    shard: int = 8192
    top_k: int = 0
    shards: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET
    teachers: dict[str, str]

    @property
    def form(self) -> Form:
        """The parts of an answer that are stored."""
        return Form(self.classes, self.top_k, self.dtype)

    @property
    def view_bytes(self) -> int:
        """The size of the answers for one view, in bytes."""
        return self.samples * len(self.teachers) * self.form.bytes

    @property
    def units(self) -> list[range]:
        """The places in the order of a view that each of its units holds."""
        if self.shards is msgspec.UNSET:
            starts = range(0, self.samples, self.shard)
            return [range(start, min(start + self.shard, self.samples)) for start in starts]
        ends = list(accumulate(self.shards))
        return [range(end - count, end) for end, count in zip(ends, self.shards, strict=True)]

    def hash(self) -> str:
        """Return a hash of all fields, which each unit of the store carries."""
        return sha256(msgspec.json.encode(self))[:16]


class LogitStore:
    """The store in `folder`, which is created when the first unit is written.

    Args:
        header: what the stored logits depend on.
        views: the number of views that are needed; the folder may hold more.

    Raises:
        StoreError: the folder holds a store that was made with another header; the message names the field.
    """

    def __init__(self, folder: Path, header: Header, views: int) -> None:
        self.folder, self.header, self.views = folder, header, views
        self._shards = header.units
        if (folder / HEADER).exists():
            refuse_other(folder, header, "remove the folder, or choose another run")

    def path(self, view: int, shard: int) -> Path:
        """Return the file of a unit, which need not exist."""
        return self.folder / f"view-{view:04d}-shard-{shard:04d}.safetensors"

    def unit(self, view: int, shard: int) -> TensorFile:
        """Return the file of a unit, which need not exist."""
        content = f"view {view}, shard {shard} of store {self.header.hash()}"
        return TensorFile(self.path(view, shard), content, "remove it and precompute again", StoreError)

    def shards(self) -> list[range]:
        """Return the places in the order of a view that each shard holds."""
        return self._shards

    def units(self) -> Iterator[tuple[int, int]]:
        """Give the (view, shard) of every unit."""
        return ((view, shard) for view in range(self.views) for shard in range(len(self.shards())))

    def missing(self, part: Part = ALL) -> list[tuple[int, int]]:
        """Return the (view, shard) of every unit that has no file, or of those in one part of all units."""
        present = set(os.listdir(self.folder)) if self.folder.is_dir() else set()  # noqa: PTH208 (names, not paths)
        return [unit for unit in part.of(list(self.units())) if self.path(*unit).name not in present]

    @property
    def bytes(self) -> int:
        """The size of the answers for all views."""
        return self.views * self.header.view_bytes

    def begin(self) -> None:
        """Write the header, unless it is there.

        Raises:
            FileError: the disk is full, or the folder can't be written.
        """
        path = self.folder / HEADER
        if not path.exists():
            write_whole(path, msgspec.json.format(msgspec.json.encode(self.header), indent=2).decode() + "\n")

    def write(self, view: int, shard: int, logits: Mapping[str, Tensor], arithmetic: Arithmetic = "fp32") -> None:
        """Write a unit.

        Args:
            logits: by the name of each teacher, float [places, classes].
            arithmetic: the arithmetic in which the teachers computed them.

        Raises:
            StoreError: a logit is too large for float16, or not a number.
            FileError: the disk is full, or the folder can't be written.
        """
        self.begin()
        tensors: dict[str, Tensor] = {}
        for name, rows in logits.items():
            if not rows.abs().max() <= torch.finfo(torch.float16).max:
                raise StoreError(f"teacher {name!r} answers with logits beyond float16 or with NaN; teach it again")
            tensors |= {f"{name}.{part}": tensor.cpu() for part, tensor in self.header.form.pack(rows).items()}
        self.unit(view, shard).write(tensors, arithmetic=arithmetic)

    def read_unit(self, view: int, shard: int) -> tuple[dict[str, Tensor], Arithmetic]:
        """Return what a unit stores, and the arithmetic in which it was computed.

        The parts are tensors [places, teachers, ...]; see `Form.empty`.

        Raises:
            StoreError: the unit is missing, damaged, or that of another place or store.
        """
        parts = self.header.form.empty(len(self.shards()[shard]), len(self.header.teachers))
        return parts, self._read_into(parts, view, shard)

    def _read_into(self, parts: Mapping[str, Tensor], view: int, shard: int) -> Arithmetic:
        """Copy what a unit stores into tensors [places, teachers, ...], and return its arithmetic."""
        file, form = self.unit(view, shard), self.header.form
        tensors, facts = file.read()
        try:
            for index, teacher in enumerate(self.header.teachers):
                stored = form.unpack({part: tensors[f"{teacher}.{part}"] for part in form.parts})
                for part, rows in stored.items():
                    if len(rows) != len(parts[part]):
                        raise ValueError(f"not the answers for {len(parts[part])} images")
                    parts[part][:, index] = rows
        except (KeyError, ValueError, RuntimeError) as fault:
            raise file.refusal(str(fault)) from fault
        return "bf16" if facts.get("arithmetic") == "bf16" else "fp32"

    def resident_views(self, device: torch.device) -> int:
        """Return how many views may have their answers on `device` at the same time."""
        return int(min(RESIDENT_BYTES, free_bytes(device) / 4) // self.header.view_bytes)

    def read(self, view: int, device: torch.device | None = None) -> Answers:
        """Return the answers for a view, on `device` unless they are too large for it.

        Raises:
            StoreError: a unit is missing or damaged.
        """
        parts = self.header.form.empty(self.header.samples, len(self.header.teachers))

        def read(shard: int) -> None:
            places = self.shards()[shard]
            own = {part: rows[places.start : places.stop] for part, rows in parts.items()}
            self._read_into(own, view, shard)

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # the digests take most of the time
            list(pool.map(read, range(len(self.shards()))))
        if device is not None and self.resident_views(device):
            parts = {part: tensor.to(device) for part, tensor in parts.items()}
        return self.answers(parts)

    def read_by_unit(self, view: int, device: torch.device, kept: int) -> Callable[[Tensor], Tensor]:
        """Return a function that returns the answers at some places, float32 [B, teachers, classes] on `device`.

        It reads a unit when it is first asked for one of its places, and keeps the last `kept` of them. Places on a GPU
        have to be waited for, and those on the CPU not.

        Raises:
            StoreError: a unit is missing or damaged.
        """
        starts = torch.tensor([places.start for places in self.shards()])

        @lru_cache(kept)
        def unit(shard: int) -> Answers:
            return self.answers(self.read_unit(view, shard)[0])

        def at(places: Tensor) -> Tensor:
            places = places.cpu()
            shards = torch.searchsorted(starts, places, right=True) - 1
            found = torch.empty(len(places), len(self.header.teachers), self.header.classes)
            for shard in shards.unique().tolist():
                here = shards == shard
                found[here] = unit(shard).at(places[here] - starts[shard])
            return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found.to(device)

        return at

    def answers(self, parts: Mapping[str, Tensor]) -> Answers:
        """Return the answers in the parts of some units; see `read_unit`."""
        return Answers(self.header.form, parts)


def read_header(path: Path) -> Header:
    """Return the header of the store whose `store.json` is `path`.

    Raises:
        StoreError: the file is missing or damaged.
    """
    try:
        content = read_regular(path, MAX_HEADER_BYTES)
        if content is None:
            raise ValueError("larger than a header can be")
        return msgspec.json.decode(content, type=Header)
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as fault:
        raise StoreError(f"{path}: damaged ({fault}); remove the store's folder and precompute again") from fault


def refuse_other(folder: Path, header: Header, remedy: str) -> None:
    """Refuse the store in `folder` if its header is not `header`.

    Raises:
        StoreError: it has another header; the message names the first field that differs, and ends with `remedy`.
    """
    found = read_header(folder / HEADER)
    for name in Header.__struct_fields__:
        stored, asked = getattr(found, name), getattr(header, name)
        if stored != asked:
            raise StoreError(f"{folder}: made with another {name} ({_brief(stored)}, not {_brief(asked)}); {remedy}")


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."

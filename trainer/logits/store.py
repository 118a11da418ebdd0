"""The logit store: a folder with a header and one safetensors file for each (view, shard).

A shard is a range of places in the keyed order of the view, in which neighbours are pairs. A file gets its name only
when it is whole, and its content depends on nothing but the header. So a restart computes what is missing, several
processes can fill one store, and a store with more views serves a run that needs fewer. A file carries its own place
and the hash of the header, which reading compares.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
import torch
from torch import Tensor

from sdk.files import read_regular, sha256, write_whole

from ..device import Arithmetic, free_bytes
from ..errors import StoreError
from ..tensors import TensorFile
from ..views import ViewSpec

HEADER = "store.json"
MAX_HEADER_BYTES = 2**20

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
        shard: the number of places in one file.
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
    dtype: str = "float16"
    shard: int = 8192
    top_k: int = 0
    teachers: dict[str, str]

    @property
    def view_bytes(self) -> int:
        """The size of the answers for one view, in bytes."""
        return self.samples * len(self.teachers) * answer_bytes(self.classes, self.top_k)

    def hash(self) -> str:
        """Return a hash of all fields, which each unit of the store carries."""
        return sha256(msgspec.json.encode(self))[:16]


def answer_bytes(classes: int, top_k: int) -> int:
    """Return the size of one teacher's answer for one image.

    It has float16 logits; with top-k it also has int32 indices, and the mass of the other classes in float32.
    """
    return top_k * (2 + 4) + 4 if top_k else 2 * classes


class Answers(Protocol):
    """The answers of all teachers for one view."""

    def at(self, places: Tensor) -> Tensor:
        """Return the logits at some places of the view's order.

        Args:
            places: int64 [B].

        Returns:
            float32 [B, teachers, classes], on the device of `places`.
        """


class FullAnswers:
    """Answers with all logits.

    Args:
        logits_NTC: float16 [N, teachers, classes].
    """

    def __init__(self, logits_NTC: Tensor) -> None:
        self.logits_NTC = logits_NTC

    def at(self, places: Tensor) -> Tensor:
        return _rows(self.logits_NTC, places).float()


class TopAnswers:
    """Answers with the largest k logits, and one value for all other classes, which keeps their total mass.

    So a softmax at temperature 1 gives every stored class its exact probability. Anshumann et al. (ACL 2025, arXiv
    2503.16870) show what happens when that mass is left out.

    Args:
        values: float16 [N, teachers, k]; the largest logits.
        indices: int32 [N, teachers, k]; their classes.
        rest: float32 [N, teachers]; the logarithm of the sum of the exponentials of all other logits.
        classes: the number of classes.
    """

    def __init__(self, values: Tensor, indices: Tensor, rest: Tensor, classes: int) -> None:
        self.values, self.indices, self.rest, self.classes = values, indices, rest, classes

    def at(self, places: Tensor) -> Tensor:
        values, indices, rest = (_rows(tensor, places) for tensor in (self.values, self.indices, self.rest))
        others = max(1, self.classes - values.shape[-1])
        level = (rest - math.log(others))[..., None].expand(*rest.shape, self.classes)
        return level.scatter(-1, indices.long(), values.float())


def _rows(tensor: Tensor, places: Tensor) -> Tensor:
    """Return the rows of `tensor` at `places`, on the device of `places`."""
    return tensor[places.to(tensor.device)].to(places.device, non_blocking=True)


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
        if (folder / HEADER).exists():
            _refuse_other(folder / HEADER, header)

    def path(self, view: int, shard: int) -> Path:
        """Return the file of a unit, which need not exist."""
        return self.folder / f"view-{view:04d}-shard-{shard:04d}.safetensors"

    def unit(self, view: int, shard: int) -> TensorFile:
        """Return the file of a unit, which need not exist."""
        content = f"view {view}, shard {shard} of store {self.header.hash()}"
        return TensorFile(self.path(view, shard), content, "remove it and precompute again", StoreError)

    def shards(self) -> list[range]:
        """Return the places in the order of a view that each shard holds."""
        size, total = self.header.shard, self.header.samples
        return [range(start, min(start + size, total)) for start in range(0, total, size)]

    def units(self) -> Iterator[tuple[int, int]]:
        """Give the (view, shard) of every unit."""
        return ((view, shard) for view in range(self.views) for shard in range(len(self.shards())))

    def missing(self) -> list[tuple[int, int]]:
        """Return the (view, shard) of every unit that has no file."""
        return [unit for unit in self.units() if not self.path(*unit).exists()]

    @property
    def bytes(self) -> int:
        """The size of the answers for all views."""
        return self.views * self.header.view_bytes

    def write(self, view: int, shard: int, logits: Mapping[str, Tensor], arithmetic: Arithmetic = "fp32") -> None:
        """Write a unit.

        Args:
            logits: by the name of each teacher, float [places, classes].
            arithmetic: the arithmetic in which the teachers computed them.

        Raises:
            StoreError: a logit is too large for float16, or not a number.
            FileError: the disk is full, or the folder can't be written.
        """
        path = self.folder / HEADER
        if not path.exists():
            write_whole(path, msgspec.json.format(msgspec.json.encode(self.header), indent=2).decode() + "\n")
        tensors: dict[str, Tensor] = {}
        for name, rows in logits.items():
            if not rows.abs().max() <= torch.finfo(torch.float16).max:
                raise StoreError(f"teacher {name!r} answers with logits beyond float16 or with NaN; teach it again")
            tensors |= {f"{name}.{part}": tensor.cpu() for part, tensor in _packed(rows, self.header.top_k).items()}
        self.unit(view, shard).write(tensors, arithmetic=arithmetic)

    def read_unit(self, view: int, shard: int) -> tuple[dict[str, Tensor], Arithmetic]:
        """Return what a unit stores, and the arithmetic in which it was computed.

        The parts are `logits`, or with top-k `values`, `indices` and `rest`; see `FullAnswers` and `TopAnswers`. Each
        is a tensor [places, teachers, ...].

        Raises:
            StoreError: the unit is missing, damaged, or that of another place or store.
        """
        file, places = self.unit(view, shard), len(self.shards()[shard])
        teachers, width = self.header.teachers, self.header.top_k or self.header.classes
        tensors, facts = file.read()
        try:
            parts = {
                part: torch.stack([tensors[f"{name}.{part}"] for name in teachers], dim=1)
                for part in (("values", "indices", "rest") if self.header.top_k else ("logits",))
            }
            for part, tensor in parts.items():
                if tensor.shape != (places, len(teachers), *([] if part == "rest" else [width])):
                    raise ValueError(f"{part} of shape {tuple(tensor.shape)}")
            if self.header.top_k and not (parts["indices"].min() >= 0 and parts["indices"].max() < self.header.classes):
                raise ValueError("classes that do not exist")
        except (KeyError, ValueError, RuntimeError) as fault:
            raise file.refusal(str(fault)) from fault
        return parts, "bf16" if facts.get("arithmetic") == "bf16" else "fp32"

    def resident_views(self, device: torch.device) -> int:
        """Return how many views may have their answers on `device` at the same time."""
        return int(min(RESIDENT_BYTES, free_bytes(device) / 4) // self.header.view_bytes)

    def read(self, view: int, device: torch.device | None = None) -> Answers:
        """Return the answers for a view, on `device` unless they are too large for it.

        Raises:
            StoreError: a unit is missing or damaged.
        """
        units = [self.read_unit(view, shard)[0] for shard in range(len(self.shards()))]
        parts = {part: torch.cat([unit[part] for unit in units]) for part in units[0]}
        if device is not None and self.resident_views(device):
            parts = {part: tensor.to(device) for part, tensor in parts.items()}
        return self.answers(parts)

    def answers(self, parts: Mapping[str, Tensor]) -> Answers:
        """Return the answers in the parts of some units; see `read_unit`."""
        if self.header.top_k:
            return TopAnswers(**parts, classes=self.header.classes)
        return FullAnswers(parts["logits"])


def _packed(rows: Tensor, top_k: int) -> dict[str, Tensor]:
    """Return the stored form of logits, float [places, classes]: a tensor for each part."""
    if not top_k:
        return {"logits": rows.to(torch.float16)}
    values, indices = rows.float().topk(top_k, dim=-1)
    others = rows.float().scatter(-1, indices, -math.inf)
    floor = torch.finfo(torch.float32).min  # finite, where no other class exists: -inf would make NaN
    return {
        "values": values.to(torch.float16),
        "indices": indices.to(torch.int32),
        "rest": others.logsumexp(-1).clamp_min(floor),
    }


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


def _refuse_other(path: Path, header: Header) -> None:
    found = read_header(path)
    for name in Header.__struct_fields__:
        stored, asked = getattr(found, name), getattr(header, name)
        if stored != asked:
            raise StoreError(
                f"{path.parent}: made with another {name} ({_brief(stored)}, not {_brief(asked)}); "
                "remove the folder, or choose another run"
            )


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."

"""The logit store: a folder with a header and one safetensors file for each (view, shard).

A shard is a range of places in the keyed order of the view, in which neighbours are pairs. A file gets its name only
when it is whole, and its content depends on nothing but the header. So a restart computes what is missing, several
processes can fill one store, and a store with more views serves a run that needs fewer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
import torch
from safetensors import SafetensorError
from torch import Tensor

from sdk.files import write_whole

from ..checkpoint import read_tensors, write_tensors
from ..device import Arithmetic, free_bytes
from ..errors import RunError, StoreError
from ..views import ViewSpec

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
    """The store in `folder`, which is created if it does not exist.

    Args:
        header: what the stored logits depend on.
        views: the number of views that are needed; the folder may hold more.

    Raises:
        StoreError: the folder holds a store that was made with another header; the message names the field.
    """

    def __init__(self, folder: Path, header: Header, views: int) -> None:
        self.folder, self.header, self.views = folder, header, views
        path = folder / "store.json"
        if path.exists():
            _refuse_other(path, header)
        else:
            write_whole(path, msgspec.json.format(msgspec.json.encode(header), indent=2).decode() + "\n")

    def path(self, view: int, shard: int) -> Path:
        """Return the file of a unit, which need not exist."""
        return self.folder / f"view-{view:04d}-shard-{shard:04d}.safetensors"

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
        """
        tensors: dict[str, Tensor] = {}
        for name, rows in logits.items():
            if not rows.abs().max() <= torch.finfo(torch.float16).max:
                raise StoreError(f"teacher {name!r} answers with logits beyond float16 or with NaN; teach it again")
            tensors |= {f"{name}.{part}": tensor.cpu() for part, tensor in _packed(rows, self.header.top_k).items()}
        write_tensors(self.path(view, shard), tensors, arithmetic=arithmetic)

    def arithmetic(self, view: int, shard: int) -> Arithmetic:
        """Return the arithmetic in which a unit was computed; `fp32` if its file does not say."""
        return "bf16" if read_tensors(self.path(view, shard))[1].get("arithmetic") == "bf16" else "fp32"

    def read_unit(self, view: int, shard: int) -> dict[str, Tensor]:
        """Return what a unit stores: a tensor [places, teachers, ...] for each part.

        The parts are `logits`, or with top-k `values`, `indices` and `rest`; see `FullAnswers` and `TopAnswers`.

        Raises:
            StoreError: the unit is missing or damaged.
        """
        path, places = self.path(view, shard), len(self.shards()[shard])
        teachers, width = self.header.teachers, self.header.top_k or self.header.classes
        try:
            tensors, _ = read_tensors(path)
            parts = {
                part: torch.stack([tensors[f"{name}.{part}"] for name in teachers], dim=1)
                for part in (("values", "indices", "rest") if self.header.top_k else ("logits",))
            }
            for part, tensor in parts.items():
                if tensor.shape != (places, len(teachers), *([] if part == "rest" else [width])):
                    raise ValueError(f"{part} of shape {tuple(tensor.shape)}")
            if self.header.top_k and not (parts["indices"].min() >= 0 and parts["indices"].max() < self.header.classes):
                raise ValueError("classes that do not exist")
        except (RunError, SafetensorError, KeyError, ValueError, RuntimeError) as fault:
            raise StoreError(f"{path}: missing or damaged ({fault}); remove it and precompute again") from fault
        return parts

    def resident_views(self, device: torch.device) -> int:
        """Return how many views may have their answers on `device` at the same time."""
        return int(min(RESIDENT_BYTES, free_bytes(device) / 4) // self.header.view_bytes)

    def read(self, view: int, device: torch.device | None = None) -> Answers:
        """Return the answers for a view, on `device` unless they are too large for it.

        Raises:
            StoreError: a unit is missing or damaged.
        """
        return self._answers([self.read_unit(view, shard) for shard in range(len(self.shards()))], device)

    def read_shard(self, view: int, shard: int) -> Answers:
        """Return the answers of one unit; its places are counted from the start of the unit.

        Raises:
            StoreError: the unit is missing or damaged.
        """
        return self._answers([self.read_unit(view, shard)], None)

    def _answers(self, units: list[dict[str, Tensor]], device: torch.device | None) -> Answers:
        parts = {part: torch.cat([unit[part] for unit in units]) for part in units[0]}
        if device is not None and self.resident_views(device):
            parts = {part: tensor.to(device) for part, tensor in parts.items()}
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


def _refuse_other(path: Path, header: Header) -> None:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Header)
    except (OSError, msgspec.MsgspecError) as fault:
        raise StoreError(f"{path}: damaged ({fault}); remove the store's folder and precompute again") from fault
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

"""The logit store: a folder with a header and one safetensors file for each (view, shard).

A shard is a run of places in the view's keyed order, in which neighbours are pairs. A file is renamed into its place
when it is whole, and depends on nothing but the header; so a restart goes on with what is missing, several processes
may fill one store, and one with more views serves a run that wants fewer.
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

from ..checkpoint import read_tensors, write_tensors, write_text
from ..device import Arithmetic, free_bytes
from ..errors import RunError, StoreError
from ..views import ViewSpec

RESIDENT_BYTES = 4 * 2**30
"""Answers of at most so many bytes lie on the training device, and of a quarter of a GPU's free memory."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that stored logits depend on. A store is only ever used by a run that agrees with every field.

    Attributes:
        spec, spec_hash: of the views; the hash also covers the way they are computed.
        data: hash of the training pictures.
        seed: of the views.
        samples, classes: how many; `shard`: places in one file.
        top_k: of each answer, so many of the largest logits are stored and the mass of the others; 0 stores all.
        teachers: hash of the weights by name, in the order of the bias tokens.
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
        """Of one view's answers."""
        return self.samples * len(self.teachers) * answer_bytes(self.classes, self.top_k)


def answer_bytes(classes: int, top_k: int) -> int:
    """Of one teacher's answer: float16 logits; of top-k also int32 indices, and the others' mass in float32."""
    return top_k * (2 + 4) + 4 if top_k else 2 * classes


class Answers(Protocol):
    """The teachers' answers for one view."""

    def at(self, places: Tensor) -> Tensor:
        """Logits, float32 [B, teachers, classes], at places in the view's order, int64 [B], on their device."""


class FullAnswers:
    """All logits, float16 [N, teachers, classes]."""

    def __init__(self, logits_NTC: Tensor) -> None:
        self.logits_NTC = logits_NTC

    def at(self, places: Tensor) -> Tensor:
        return _rows(self.logits_NTC, places).float()


class TopAnswers:
    """The largest k logits, and one value for all others: that at which they have the mass that they had together.

    So a softmax at temperature 1 gives every stored class its exact probability (Anshumann et al., ACL 2025, arXiv
    2503.16870, on what leaving that mass out does).

    Args:
        values: float16 [N, teachers, k]; `indices`: their classes, int32; `rest`: float32 [N, teachers], the
            logarithm of the other classes' sum of exponentials.
    """

    def __init__(self, values: Tensor, indices: Tensor, rest: Tensor, classes: int) -> None:
        self.values, self.indices, self.rest, self.classes = values, indices, rest, classes

    def at(self, places: Tensor) -> Tensor:
        values, indices, rest = (_rows(tensor, places) for tensor in (self.values, self.indices, self.rest))
        others = max(1, self.classes - values.shape[-1])
        level = (rest - math.log(others))[..., None].expand(*rest.shape, self.classes)
        return level.scatter(-1, indices.long(), values.float())


def _rows(tensor: Tensor, places: Tensor) -> Tensor:
    """Rows on the places' device, wherever the tensor lies."""
    return tensor[places.to(tensor.device)].to(places.device, non_blocking=True)


class LogitStore:
    """A store that agrees with `header`, asked for its first `views` views; made if there is none.

    Raises:
        StoreError: the folder holds a store that was made for something else, which is named.
    """

    def __init__(self, folder: Path, header: Header, views: int) -> None:
        self.folder, self.header, self.views = folder, header, views
        path = folder / "store.json"
        if path.exists():
            _refuse_other(path, header)
        else:
            write_text(path, msgspec.json.format(msgspec.json.encode(header), indent=2).decode() + "\n")

    def path(self, view: int, shard: int) -> Path:
        return self.folder / f"view-{view:04d}-shard-{shard:04d}.safetensors"

    def shards(self) -> list[range]:
        """The places in a view's order that each shard holds."""
        size, total = self.header.shard, self.header.samples
        return [range(start, min(start + size, total)) for start in range(0, total, size)]

    def units(self) -> Iterator[tuple[int, int]]:
        """All (view, shard)."""
        return ((view, shard) for view in range(self.views) for shard in range(len(self.shards())))

    def missing(self) -> list[tuple[int, int]]:
        return [unit for unit in self.units() if not self.path(*unit).exists()]

    @property
    def bytes(self) -> int:
        """Of all answers."""
        return self.views * self.header.view_bytes

    def write(self, view: int, shard: int, logits: Mapping[str, Tensor], arithmetic: Arithmetic = "fp32") -> None:
        """Keep float [places, classes] of every teacher, and the arithmetic that they were computed in.

        Raises:
            StoreError: they are more than float16 can hold.
        """
        tensors: dict[str, Tensor] = {}
        for name, rows in logits.items():
            if not rows.abs().max() <= torch.finfo(torch.float16).max:
                raise StoreError(
                    f"teacher {name!r} answers with logits beyond float16 (or none at all); teach it again"
                )
            tensors |= {f"{name}.{part}": tensor.cpu() for part, tensor in _packed(rows, self.header.top_k).items()}
        write_tensors(self.path(view, shard), tensors, arithmetic=arithmetic)

    def arithmetic(self, view: int, shard: int) -> Arithmetic:
        """Return what a unit was computed in: `fp32` where it does not say."""
        return "bf16" if read_tensors(self.path(view, shard))[1].get("arithmetic") == "bf16" else "fp32"

    def read_unit(self, view: int, shard: int) -> dict[str, Tensor]:
        """What is stored, a tensor [places, teachers, ...] for each part.

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
                raise ValueError("classes that there are not")
        except (RunError, SafetensorError, KeyError, ValueError, RuntimeError) as fault:
            raise StoreError(f"{path}: missing or damaged ({fault}); remove it and precompute again") from fault
        return parts

    def resident_views(self, device: torch.device) -> int:
        """Return for how many views the answers may stay on `device`."""
        return int(min(RESIDENT_BYTES, free_bytes(device) / 4) // self.header.view_bytes)

    def read(self, view: int, device: torch.device | None = None) -> Answers:
        """The answers for a view, on `device` unless they are too large for it."""
        return self._answers([self.read_unit(view, shard) for shard in range(len(self.shards()))], device)

    def read_shard(self, view: int, shard: int) -> Answers:
        """The answers for one unit, whose places count from its start."""
        return self._answers([self.read_unit(view, shard)], None)

    def _answers(self, units: list[dict[str, Tensor]], device: torch.device | None) -> Answers:
        parts = {part: torch.cat([unit[part] for unit in units]) for part in units[0]}
        if device is not None and self.resident_views(device):
            parts = {part: tensor.to(device) for part, tensor in parts.items()}
        if self.header.top_k:
            return TopAnswers(**parts, classes=self.header.classes)
        return FullAnswers(parts["logits"])


def _packed(rows: Tensor, top_k: int) -> dict[str, Tensor]:
    """Logits, float [places, classes], as they are stored."""
    if not top_k:
        return {"logits": rows.to(torch.float16)}
    values, indices = rows.float().topk(top_k, dim=-1)
    others = rows.float().scatter(-1, indices, -math.inf)
    floor = torch.finfo(torch.float32).min  # where nothing else is left; finite, so that arithmetic stays so
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

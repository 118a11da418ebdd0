"""The logit store: a folder with a header and one safetensors file for each (view, shard).

A shard is a run of places in the view's keyed order, in which neighbours are pairs. A file is renamed into its place
when it is whole, and depends on nothing but the header; so a restart goes on with what is missing, and several
processes may fill one store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..checkpoint import read_tensors, write_tensors, write_text
from ..errors import RunError, StoreError
from ..views import ViewSpec


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that stored logits depend on. A store is only ever used by a run that agrees with every field.

    Attributes:
        spec, spec_hash: of the views; the hash also covers the way they are computed.
        data: hash of the training pictures.
        seed: of the views.
        views, samples, classes: how many; `shard`: places in one file.
        teachers: hash of the weights by name, in the order of the bias tokens.
    """

    format: str = "libkd-logits/1"
    spec: ViewSpec
    spec_hash: str
    data: str
    seed: int
    views: int
    samples: int
    classes: int
    dtype: str = "float16"
    shard: int = 8192
    teachers: dict[str, str]

    @property
    def bytes(self) -> int:
        """Of all logits."""
        return self.views * self.samples * self.classes * len(self.teachers) * 2


class LogitStore:
    """A store that agrees with `header`; made if there is none.

    Raises:
        StoreError: the folder holds a store that was made for something else, which is named.
    """

    def __init__(self, folder: Path, header: Header) -> None:
        self.folder, self.header = folder, header
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
        return ((view, shard) for view in range(self.header.views) for shard in range(len(self.shards())))

    def missing(self) -> list[tuple[int, int]]:
        return [unit for unit in self.units() if not self.path(*unit).exists()]

    def write(self, view: int, shard: int, logits: Mapping[str, Tensor]) -> None:
        """Keep float [places, classes] of every teacher, as float16."""
        for name, rows in logits.items():
            if not rows.abs().max() <= torch.finfo(torch.float16).max:
                raise StoreError(
                    f"teacher {name!r} answers with logits beyond float16 (or none at all); teach it again"
                )
        write_tensors(self.path(view, shard), {name: rows.to(torch.float16).cpu() for name, rows in logits.items()})

    def read_unit(self, view: int, shard: int) -> Tensor:
        """float16 [places, teachers, classes].

        Raises:
            StoreError: the unit is missing or damaged.
        """
        path, places = self.path(view, shard), self.shards()[shard]
        try:
            tensors, _ = read_tensors(path)
            rows = torch.stack([tensors[name] for name in self.header.teachers], dim=1)
            if rows.shape != (len(places), len(self.header.teachers), self.header.classes):
                raise ValueError(f"{tuple(rows.shape)} logits")
        except (RunError, SafetensorError, KeyError, ValueError, RuntimeError) as fault:
            raise StoreError(f"{path}: missing or damaged ({fault}); remove it and precompute again") from fault
        return rows

    def read(self, view: int) -> Tensor:
        """A whole view, float16 [samples, teachers, classes], in the view's keyed order."""
        return torch.cat([self.read_unit(view, shard) for shard in range(len(self.shards()))])


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

"""The stored form of an answer: all of its logits or the largest k, in 16 or in 8 bits.

`spec/store.md` describes it for other programs. Shapes: N images, T teachers, C classes, K stored logits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

DType = Literal["float16", "int8"]

CODES = 127
"""The codes of 8 bits are -127..127."""

SHORT_CLASSES = 65_535
"""Up to this many classes, their indices are stored in 16 bits."""


class Form(NamedTuple):
    """The parts of an answer that are stored.

    Attributes:
        classes: the number of classes.
        top_k: how many of the largest logits are stored, with the mass of the others; 0 stores all logits.
        dtype: the numbers that stand for the logits. With `int8` they are codes, and each answer has a scale and an
            offset: a logit is `offset + scale * code`.
    """

    classes: int
    top_k: int
    dtype: DType

    @property
    def logits(self) -> str:
        """The name of the part that holds the logits."""
        return "values" if self.top_k else "logits"

    @property
    def parts(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """The dtype of each part in a file, and its shape for one answer, by name."""
        parts: dict[str, tuple[torch.dtype, tuple[int, ...]]]
        parts = {self.logits: (getattr(torch, self.dtype), (self.top_k or self.classes,))}
        if self.dtype == "int8":
            parts |= {"scale": (torch.float16, ()), "offset": (torch.float16, ())}
        if self.top_k:
            index = torch.uint16 if self.classes <= SHORT_CLASSES else torch.int32
            parts |= {"indices": (index, (self.top_k,)), "rest": (torch.float32, ())}
        return parts

    @property
    def bytes(self) -> int:
        """The size of one teacher's answer for one image."""
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.parts.values())

    def pack(self, logits_NC: Tensor) -> dict[str, Tensor]:
        """Return the parts of one teacher's answers, as a file holds them."""
        values, parts = logits_NC.float(), dict[str, Tensor]()
        if self.top_k:
            values, indices = logits_NC.float().topk(self.top_k, dim=-1)
            others = logits_NC.float().scatter(-1, indices, -math.inf)
            floor = torch.finfo(torch.float32).min  # finite, where no other class exists: -inf would make NaN
            parts["rest"] = others.logsumexp(-1).clamp_min(floor)
            parts["indices"] = self._narrow(indices)
            if self.classes <= SHORT_CLASSES:
                parts["indices"] = parts["indices"].view(torch.uint16)
        if self.dtype == "int8":
            return parts | dict(zip((self.logits, "scale", "offset"), codes_of(values), strict=True))
        return parts | {self.logits: values.to(torch.float16)}

    def empty(self, count: int, teachers: int) -> dict[str, Tensor]:
        """Return memory for all teachers' answers to `count` images, as `unpack` returns those of one teacher.

        Its parts are [count, teachers, ...].
        """
        return {name: _memory((count, teachers, *shape), _kept(dtype)) for name, (dtype, shape) in self.parts.items()}

    def unpack(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parts of one teacher's answers, [N, ...] each, as they are kept in memory.

        They differ from those of a file only in indices of 16 bits, which are int16 with the same bits.

        Raises:
            ValueError: a part has another shape or dtype, or there is no such class.
        """
        for name, (dtype, shape) in self.parts.items():
            part = parts[name]
            older = torch.int32 if name == "indices" else dtype  # all indices had 32 bits once
            if part.shape[1:] != shape or part.dtype not in (dtype, older):
                raise ValueError(f"{name} of shape {tuple(part.shape)} and {part.dtype}")
        if not self.top_k:
            return dict(parts)
        indices = parts["indices"].long()
        if not (indices.min() >= 0 and indices.max() < self.classes):
            raise ValueError("classes that do not exist")
        return {**parts, "indices": self._narrow(indices)}

    def _narrow(self, indices: Tensor) -> Tensor:
        return indices.to(torch.int16 if self.classes <= SHORT_CLASSES else torch.int32)


class Answers:
    """The answers of all teachers for some places, in their stored form.

    With top-k, one value stands for all other classes and keeps their total mass. So a softmax at temperature 1 gives
    every stored class its probability. Anshumann et al. (ACL 2025, arXiv 2503.16870) show what happens when that mass
    is left out.

    Args:
        parts: [N, T, ...] each; see `Form.empty`.
    """

    def __init__(self, form: Form, parts: Mapping[str, Tensor]) -> None:
        self.form, self.parts = form, parts

    def at(self, places: Tensor) -> Tensor:
        """Return the logits at some places.

        Args:
            places: int64 [B].

        Returns:
            float32 [B, T, C], on the device of `places`.
        """
        rows = {
            name: part[places.to(part.device)].to(places.device, non_blocking=True) for name, part in self.parts.items()
        }
        values = rows[self.form.logits].float()
        if self.form.dtype == "int8":
            values = values * rows["scale"].float()[..., None] + rows["offset"].float()[..., None]
        if not self.form.top_k:
            return values
        others = max(1, self.form.classes - self.form.top_k)
        level = (rows["rest"] - math.log(others))[..., None].expand(*rows["rest"].shape, self.form.classes)
        return level.scatter(-1, wide(rows["indices"]), values)


def _kept(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in memory of a part that has this dtype in a file."""
    return torch.int16 if dtype == torch.uint16 else dtype  # a GPU can't index uint16


def _memory(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor whose values are not set.

    The memory is that of numpy, which asks the system for large pages. With small pages, writing to a new tensor
    takes as long as reading and checking what is written there.
    """
    return torch.from_numpy(np.empty(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)


def wide(indices: Tensor) -> Tensor:
    """Return indices that are kept in memory as int64."""
    return indices.long() & 0xFFFF if indices.dtype == torch.int16 else indices.long()


def codes_of(values_NK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes int8 [N, K], and a scale and an offset float16 [N].

    No value is further than half a scale from `offset + scale * code`. The codes are made for the scale and the offset
    as they were rounded to float16, so this rounding adds nothing. The scale is at most 1.001 / 254 of the distance of
    the largest value from the smallest, apart from what the offset was rounded by.
    """
    low, high = values_NK.aminmax(dim=-1, keepdim=True)
    offset = ((low + high) / 2).half()
    reach = torch.maximum(high - offset.float(), offset.float() - low)
    scale = _rounded_up((reach / CODES).clamp_min(2**-24))  # the smallest positive float16
    codes = ((values_NK - offset.float()) / scale.float()).round()
    return codes.to(torch.int8), scale[:, 0], offset[:, 0]


def _rounded_up(positive: Tensor) -> Tensor:
    """Return the smallest numbers in float16 that are not below some positive ones."""
    nearest = positive.half()
    above = (nearest.view(torch.int16) + 1).view(torch.float16)
    return torch.where(nearest.float() < positive, above, nearest)

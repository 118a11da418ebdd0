"""A teacher: any net from timm, with its own preprocessing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Input, Preprocessing, Resize, to_input
from ..device import Arithmetic, Precision, arithmetic, autocast
from ..recipe import TeacherRecipe
from ..tensors import weights_hash
from .weights import create_net, learned, load_weights


class Teacher(NamedTuple):
    """A net that answers for the images of a view.

    Attributes:
        net: maps normalised [B, 3, height, width] to logits [B, classes].
        preprocessing: its own size and normalisation.
        precision: the precision in which it was trained.
    """

    net: nn.Module
    preprocessing: Preprocessing
    precision: Precision = "auto"

    def answer(self, pixels: Tensor) -> Tensor:
        """Return the logits, float32 [B, classes], for float pixels [B, 3, H, W] in 0..1 of any size."""
        with autocast(self.arithmetic(pixels.device), pixels.device):
            logits: Tensor = self.net(to_input(pixels, self.preprocessing))
        return logits.float()

    def arithmetic(self, device: torch.device) -> Arithmetic:
        """Return the arithmetic of answers on `device`.

        On a GPU it is that of the training, because answers are stored in 16 bits anyway. On a CPU it is float32.
        """
        return arithmetic(self.precision, device) if device.type == "cuda" else "fp32"

    def hash(self) -> str:
        """Return a hash of everything that its answers depend on: its weights and its preprocessing."""
        parts = weights_hash(self.net).encode(), msgspec.json.encode(self.preprocessing)
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    def to(self, device: torch.device) -> Teacher:
        """Return the teacher with its net on `device`, in channels-last memory layout."""
        net = self.net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch allows both
        return self._replace(net=net)

    def for_images(self, size: int | None) -> tuple[nn.Module, Preprocessing]:
        """Return the net and its preprocessing for square images of the data's size: what `sdk.export` takes.

        A net of another size scales them itself, as in training.
        """
        own = self.preprocessing.input.height
        if size in (None, own):
            return self.net, self.preprocessing
        return _Scaled(self.net, size, own).eval(), msgspec.structs.replace(self.preprocessing, input=_square(size))


class _Scaled(nn.Module):
    """A net that scales square images to its own size like `to_input`, with matrix products, which every engine has.

    `[B, 3, before, before] -> [B, classes]`
    """

    rows: Tensor

    def __init__(self, net: nn.Module, before: int, after: int) -> None:
        super().__init__()
        self.net = net
        rows = F.interpolate(torch.eye(before)[None, None], (after, before), mode="bilinear", antialias=True)
        self.register_buffer("rows", rows[0, 0])

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):  # along the width, then along the height
            x = F.linear(x, self.rows).mT
        logits: Tensor = self.net(x)
        return logits


def create_teacher(teacher: TeacherRecipe, classes: int, preprocessing: Preprocessing) -> Teacher:
    """Return an untrained teacher, as the recipe describes it.

    Args:
        classes: the number of classes in the data.
        preprocessing: the preprocessing of the data, which the recipe may replace for this teacher.

    Raises:
        RecipeError: timm does not know the model, the model does not know an argument, or the weights do not match.
    """
    net = create_net(teacher.model, pretrained=teacher.pretrained, num_classes=classes, **teacher.args)
    if teacher.weights:
        load_weights(net, Path(teacher.weights), whole=teacher.training.epochs == 0)
    return Teacher(net, _own(preprocessing, teacher, net), teacher.training.precision)


def _own(preprocessing: Preprocessing, teacher: TeacherRecipe, net: nn.Module) -> Preprocessing:
    known = learned(net) if teacher.pretrained or teacher.weights else {}
    size = teacher.size or preprocessing.input.height
    return msgspec.structs.replace(
        preprocessing,
        input=_square(size),
        mean=teacher.mean or tuple(known.get("mean", preprocessing.mean)),
        std=teacher.std or tuple(known.get("std", preprocessing.std)),
    )


def _square(size: int) -> Input:
    return Input(height=size, width=size, resize=Resize(mode="cover", size=(size, size)))

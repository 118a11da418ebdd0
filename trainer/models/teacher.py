"""A teacher: any net from timm, with its own preprocessing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
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
        input=Input(height=size, width=size, resize=Resize(mode="cover", size=(size, size))),
        mean=teacher.mean or tuple(known.get("mean", preprocessing.mean)),
        std=teacher.std or tuple(known.get("std", preprocessing.std)),
    )

"""A teacher: any net from timm, with its own preprocessing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple, cast

import msgspec
import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from sdk.errors import did_you_mean

from ..data import Input, Preprocessing, Resize, to_input
from ..device import Arithmetic, Precision, arithmetic, autocast
from ..errors import RecipeError
from ..recipe import TeacherRecipe
from ..tensors import not_finite, read_foreign, weights_hash


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
    if not timm.is_model(teacher.model):
        raise RecipeError(f"timm has no model {teacher.model!r}; {did_you_mean(teacher.model, timm.list_models())}")
    try:
        net = timm.create_model(teacher.model, pretrained=teacher.pretrained, num_classes=classes, **teacher.args)
    except (TypeError, ValueError, AssertionError, RuntimeError, OSError) as fault:
        if teacher.pretrained:
            raise RecipeError(
                f"timm can't get the weights of {teacher.model!r}: {fault}; "
                "set `weights` to a file, or leave `pretrained` out"
            ) from fault
        raise RecipeError(f"timm can't create {teacher.model!r} with {teacher.args}: {fault}; correct args") from fault
    if teacher.weights:
        _load(net, Path(teacher.weights), whole=teacher.training.epochs == 0)
    return Teacher(net, _own(preprocessing, teacher, net), teacher.training.precision)


def _pretrained_cfg(net: nn.Module) -> dict[str, Any]:
    """Return what timm knows about the training of its weights; torch types the attributes of modules too broadly."""
    return cast(dict[str, Any], net.pretrained_cfg)


def _own(preprocessing: Preprocessing, teacher: TeacherRecipe, net: nn.Module) -> Preprocessing:
    learned = _pretrained_cfg(net) if teacher.pretrained or teacher.weights else {}
    size = teacher.size or preprocessing.input.height
    return msgspec.structs.replace(
        preprocessing,
        input=Input(height=size, width=size, resize=Resize(mode="cover", size=(size, size))),
        mean=teacher.mean or tuple(learned.get("mean", preprocessing.mean)),
        std=teacher.std or tuple(learned.get("std", preprocessing.std)),
    )


def _load(net: nn.Module, path: Path, whole: bool) -> None:
    """Load the weights of a file into `net`.

    Unless `whole`, the classifier keeps its initial weights if those of the file have another shape.
    """
    weights, own = _read(path), net.state_dict()
    head = f"{_pretrained_cfg(net).get('classifier', '')}."
    other_head = {name for name in own if name.startswith(head) and not whole and not _fits(weights, own, name)}
    wrong = [name for name in own if name not in other_head and not _fits(weights, own, name)]
    strange = [name for name in weights if name not in own]
    if wrong or strange:
        raise RecipeError(
            f"{path}: not the weights of this model ({', '.join([*wrong, *strange][:3])} missing, unknown or of "
            "another shape); use timm's names and, if it is not trained, as many classes as there are labels"
        )
    if name := not_finite(weights):
        raise RecipeError(f"{path}: {name} holds NaN or infinity; copy the file again, or use other weights")
    net.load_state_dict({name: tensor for name, tensor in weights.items() if name not in other_head}, strict=False)


def _fits(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str) -> bool:
    return name in weights and weights[name].shape == own[name].shape


def _read(path: Path) -> dict[str, Tensor]:
    """Return tensors by name, from safetensors, or from a state dictionary that torch reads without running code."""
    try:
        if path.suffix == ".safetensors":
            return read_foreign(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, UnpicklingError) as fault:
        raise RecipeError(f"{path}: can't be read as weights ({str(fault).splitlines()[0]}); check the path") from fault
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise RecipeError(f"{path}: not a plain state dictionary; save only `model.state_dict()`")
    return tensors

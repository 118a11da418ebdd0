"""A teacher: any timm net with the way in which it wants to see pictures."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import msgspec
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .. import recipe
from ..checkpoint import weights_hash
from ..data import Input, Preprocessing, Resize, to_input
from ..device import Arithmetic, Precision, arithmetic, autocast
from ..errors import RecipeError


class Teacher(NamedTuple):
    """A net, `normalised [B, 3, h, w] -> logits [B, classes]`, its own size and normalisation, and the precision that
    it was trained in."""

    net: nn.Module
    preprocessing: Preprocessing
    precision: Precision = "auto"

    def answer(self, pixels: Tensor) -> Tensor:
        """Logits, float32 [B, classes], for float pixels [B, 3, H, W] in 0..1 of any size."""
        with autocast(self.arithmetic(pixels.device), pixels.device):
            return self.net(to_input(pixels, self.preprocessing)).float()

    def arithmetic(self, device: torch.device) -> Arithmetic:
        """Return how answers are computed on `device`: as the teacher was trained on a GPU, for they are stored in 16
        bits anyway; in float32 on a CPU."""
        return arithmetic(self.precision, device) if device.type == "cuda" else "fp32"

    def hash(self) -> str:
        """Names its answers: its weights, and how it sees pictures."""
        parts = weights_hash(self.net).encode(), msgspec.json.encode(self.preprocessing)
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    def to(self, device: torch.device) -> Teacher:
        return self._replace(net=self.net.to(device, memory_format=torch.channels_last))


def create_teacher(teacher: recipe.TeacherRecipe, classes: int, preprocessing: Preprocessing) -> Teacher:
    """A teacher as the recipe describes it, before it is trained.

    Args:
        classes: of the data.
        preprocessing: of the data; the recipe may say otherwise for this teacher.

    Raises:
        RecipeError: timm does not know the model, or the model not one of the arguments, or the weights do not fit.
    """
    if not timm.is_model(teacher.model):
        near = difflib.get_close_matches(teacher.model, timm.list_models(), n=1)
        raise RecipeError(f"timm has no model {teacher.model!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    try:
        net = timm.create_model(teacher.model, pretrained=teacher.pretrained, num_classes=classes, **teacher.args)
    except (TypeError, ValueError, AssertionError, RuntimeError, OSError) as fault:
        if teacher.pretrained:
            raise RecipeError(
                f"timm can't get the weights of {teacher.model!r}: {fault}; give a file of them by `weights`, or none"
            ) from fault
        raise RecipeError(f"timm can't make {teacher.model!r} with {teacher.args}: {fault}; mend its args") from fault
    if teacher.weights:
        _load(net, Path(teacher.weights), whole=teacher.training.epochs == 0)
    return Teacher(net, _own(preprocessing, teacher, net), teacher.training.precision)


def _own(preprocessing: Preprocessing, teacher: recipe.TeacherRecipe, net: nn.Module) -> Preprocessing:
    learned = net.pretrained_cfg if teacher.pretrained or teacher.weights else {}
    size = teacher.size or preprocessing.input.height
    return msgspec.structs.replace(
        preprocessing,
        input=Input(height=size, width=size, resize=Resize(mode="cover", size=(size, size))),
        mean=teacher.mean or tuple(learned.get("mean", preprocessing.mean)),
        std=teacher.std or tuple(learned.get("std", preprocessing.std)),
    )


def _load(net: nn.Module, path: Path, whole: bool) -> None:
    """Put a file's weights into `net`: all if `whole`, else the classifier only if it has as many classes."""
    weights, own = _read(path), net.state_dict()
    head = f"{net.pretrained_cfg.get('classifier', '')}."
    other_head = {name for name in own if name.startswith(head) and not whole and not _fits(weights, own, name)}
    wrong = [name for name in own if name not in other_head and not _fits(weights, own, name)]
    strange = [name for name in weights if name not in own]
    if wrong or strange:
        raise RecipeError(
            f"{path}: no weights of this model ({', '.join([*wrong, *strange][:3])} missing, unknown or of another "
            "shape); they have timm's names and, taken as they are, as many classes as there are labels"
        )
    net.load_state_dict({name: tensor for name, tensor in weights.items() if name not in other_head}, strict=False)


def _fits(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str) -> bool:
    return name in weights and weights[name].shape == own[name].shape


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors by name, from safetensors or from a state dictionary that torch reads without running its pickle."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, UnpicklingError) as fault:
        raise RecipeError(f"{path}: can't be read as weights ({str(fault).splitlines()[0]}); check the path") from fault
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise RecipeError(f"{path}: no plain state dictionary; save `model.state_dict()` alone")
    return tensors

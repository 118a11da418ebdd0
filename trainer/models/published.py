"""Nets from timm with published weights, and the preprocessing that they were trained with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import timm.data
from torch import nn

from sdk.images import Filter

from ..data import Input, Preprocessing, Resize
from ..errors import RecipeError
from ..recipe import TeacherRecipe, Training
from .teacher import create_teacher

PIXELS = Preprocessing(
    input=Input(height=224, width=224, resize=Resize(mode="cover", size=(224, 224))), mean=(0.0,) * 3, std=(1.0,) * 3
)


def load_published(name: str, weights: Path | None, classes: int) -> tuple[nn.Module, Preprocessing]:
    """Return a net from timm with published weights, and its preprocessing.

    The net maps normalised float32 [B, 3, height, width] to logits [B, classes].

    Args:
        name: the name of the model in timm.
        weights: a file of weights; None lets timm download its own.
        classes: the number of classes of the weights.

    Raises:
        RecipeError: timm has no such model, or the weights can't be downloaded, can't be read, or do not match it.
    """
    source = {"pretrained": True} if weights is None else {"weights": str(weights)}
    teacher = TeacherRecipe(model=name, training=Training(epochs=0), **source)
    net = create_teacher(teacher, classes, PIXELS).net.eval()
    return net, preprocessing_of(name, timm.data.resolve_model_data_config(net))


def preprocessing_of(name: str, seen: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing that gives the same pixels as timm's transform for evaluation.

    Args:
        name: the name of the weights, for errors.
        seen: what `timm.data.resolve_data_config` returns.

    Raises:
        RecipeError: no bundle can describe this preprocessing.
    """
    channels, height, width = seen["input_size"]
    mode, fraction, filter = seen["crop_mode"], seen["crop_pct"], seen["interpolation"]
    if mode not in ("center", "squash") or fraction > 1:
        raise _inexpressible(name, f"adds borders to images (crop_mode {mode}, crop_pct {fraction})")
    if mode == "center" and height != width:
        raise _inexpressible(name, f"crops {width}x{height} pixels from images that keep their aspect ratio")
    if filter not in get_args(Filter):
        raise _inexpressible(name, f"scales images with {filter}")
    if channels != 3:
        raise _inexpressible(name, f"takes images of {channels} channels")
    scaled = (math.floor(height / fraction), math.floor(width / fraction))
    resize = Resize(mode="squash" if mode == "squash" else "cover", size=scaled, filter=filter)
    input = Input(height=height, width=width, resize=resize)
    return Preprocessing(input=input, mean=tuple(seen["mean"]), std=tuple(seen["std"]))


def _inexpressible(name: str, what: str) -> RecipeError:
    return RecipeError(f"{name}: timm {what}, which no bundle can describe; choose other weights")

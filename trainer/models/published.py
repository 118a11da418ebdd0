"""Nets from timm with published weights, and the preprocessing that they were trained with."""

from __future__ import annotations

from pathlib import Path

import timm.data
from torch import nn

from ..data import Input, Preprocessing, Resize
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
    seen = timm.data.resolve_model_data_config(net)
    _, height, width = seen["input_size"]
    fraction = 1.0 if seen["crop_mode"] == "squash" else seen["crop_pct"]
    covered = (int(height / fraction), int(width / fraction))
    resize = Resize(
        mode="squash" if seen["crop_mode"] == "squash" else "cover", size=covered, filter=seen["interpolation"]
    )
    input = Input(height=height, width=width, resize=resize)
    return net, Preprocessing(input=input, mean=tuple(seen["mean"]), std=tuple(seen["std"]))

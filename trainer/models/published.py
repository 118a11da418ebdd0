"""A net of timm's with weights that somebody published, and the way in which it learned to see pictures."""

from __future__ import annotations

from pathlib import Path

import timm.data
from torch import nn

from .. import recipe
from ..data import Input, Preprocessing, Resize
from .teacher import create_teacher

PIXELS = Preprocessing(
    input=Input(height=224, width=224, resize=Resize(mode="cover", size=(224, 224))), mean=(0.0,) * 3, std=(1.0,) * 3
)


def load_published(name: str, weights: Path | None, classes: int) -> tuple[nn.Module, Preprocessing]:
    """Normalised float32 [B, 3, height, width] -> logits [B, classes], and timm's preprocessing for it.

    Without a file of `weights`, timm downloads its own.

    Raises:
        RecipeError: timm has no such model, or the weights can't be had, read, or do not fit it.
    """
    source = {"pretrained": True} if weights is None else {"weights": str(weights)}
    teacher = recipe.TeacherRecipe(model=name, training=recipe.Training(epochs=0), **source)
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

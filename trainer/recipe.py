"""The recipe: everything that decides the outcome of a run, apart from its data. It is read from TOML.

Every table is a typed struct, and an unknown key is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from sdk.files import read_text, sha256

from .device import Precision
from .errors import RecipeError
from .losses import check_loss_args
from .tables import to_struct
from .views import ExtraSpec, ViewSpec


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of a recipe. Unknown keys are errors."""


class DataRecipe(Table, frozen=True, kw_only=True):
    """The conversion of images to pixels, and the share of them that is held out.

    Attributes:
        size: The height and width of the nets' input, in pixels. The default is the median size of the images, at
            most 96.
        holdout: The share of each class that is held out for validation, unless the data has both a validation and a
            test split. If the data has neither, as much again is held out for the test.
        labels: The share of each class whose labels are used. The other training images count as unlabelled.
        memory_gb: If the decoded training images take more memory than this, they are decoded again in every epoch.
        mean, std: The normalisation of each channel, for pixels in 0..1. The default is that of ImageNet.
    """

    size: int | None = None
    holdout: float = 0.1
    labels: float = 1.0
    memory_gb: float = 8.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.size is not None and not 8 <= self.size <= 1024:
            raise ValueError("size is between 8 and 1024 pixels")
        if not 0 < self.holdout <= 0.4:
            raise ValueError("holdout is above 0 and at most 0.4")
        if not 0 < self.labels <= 1:
            raise ValueError("labels is above 0 and at most 1")
        if not self.memory_gb >= 0:
            raise ValueError("memory_gb is not negative")


class ViewsRecipe(Table, frozen=True, kw_only=True):
    """The views that the student sees, and the source of its teachers' answers.

    Attributes:
        mode: `replay` stores `count` views and shows them in turn, one in each epoch. `exact` stores a different view
            for each epoch. `clean` stores one view, the unchanged image; it is weak and meant for comparisons.
            `online` stores nothing: the teachers answer while the student is trained.
        count: The number of stored views in mode `replay`.
        spec: The augmentation of the views.
        top_k: How many logits of each answer are stored, with the total mass of the others; 0 stores all. The default
            is all up to 1,000 classes, and 100 above that.
        extra: Further augmentation that only the student sees, on top of the view that the teachers answered for.
    """

    mode: Literal["replay", "exact", "clean", "online"] = "replay"
    count: int = 10
    spec: ViewSpec = ViewSpec(scale=(0.5, 1.0), ratio=(0.75, 1.3333), flip=0.5, erase=0.25, mixup=0.8, cutmix=1.0)
    top_k: int | None = None
    extra: ExtraSpec = ExtraSpec()

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("count is at least 1")
        if self.top_k is not None and self.top_k < 0:
            raise ValueError("top_k is not negative")


class Training(Table, frozen=True, kw_only=True):
    """A schedule: AdamW with linear warm-up, cosine decay, gradient clipping, and an average of the weights.

    Attributes:
        epochs: The number of epochs. A teacher with 0 epochs is used as it is.
        batch: The number of images in a batch. It is even, because images come in pairs.
        lr: The highest learning rate, for this batch size. It ends at a hundredth of it.
        warmup: The epochs until the highest learning rate is reached; it may be a fraction.
        weight_decay: The weight decay of matrices and tokens. Biases and norms have none.
        clip: The largest norm of the gradient.
        ema: The decay of the averaged weights, which are the weights that are kept; 0 switches averaging off.
        smoothing: The smoothing of the labels.
        precision: The arithmetic of the training: `fp32`, `bf16`, or `auto`, which is bf16 if the device has it in
            hardware.
        compile: Whether the net is compiled by torch.compile.
    """

    epochs: int = 100
    batch: int = 128
    lr: float = 1e-3
    warmup: float = 5.0
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.998
    smoothing: float = 0.1
    precision: Precision = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch < 2 or self.batch % 2:
            raise ValueError("epochs is not negative; batch is even and at least 2")
        figures = (self.lr, self.clip, self.warmup, self.weight_decay)
        if not (all(map(math.isfinite, figures)) and min(self.lr, self.clip) > 0 and min(figures) >= 0):
            raise ValueError("lr and clip are above 0; warmup and weight_decay are not negative; all are finite")
        if not (0 <= self.ema < 1 and 0 <= self.smoothing < 1):
            raise ValueError("ema and smoothing are at least 0 and below 1")


class TeacherRecipe(Table, frozen=True, kw_only=True):
    """One teacher: any timm model, how it is trained, and its part in the student's loss.

    Attributes:
        model: A name that `timm.create_model` knows.
        args: Further arguments for `timm.create_model`.
        pretrained: Whether the training starts from the weights that timm has for the model. They are downloaded once.
        weights: A file of weights to start from, with timm's names: safetensors, or a plain torch state dictionary.
            The classifier is left out if the file has another number of classes. With `training.epochs` = 0 the
            teacher is used as it is.
        size: The height and width of its input in pixels, if they are not those of the data.
        mean, std: Its normalisation. The default is timm's with `pretrained` or `weights`, and else that of the data.
        views: The augmentation of the images that it is trained on.
        training: Its schedule.
        weight: The weight of its term in the student's loss.
        temperature: The temperature of its term: its logits and the student's are divided by it.
    """

    model: str
    args: dict[str, Any] = {}
    pretrained: bool = False
    weights: str | None = None
    size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    views: ViewSpec = ViewSpec(scale=(0.5, 1.0), ratio=(0.75, 1.3333), flip=0.5, erase=0.25)
    training: Training = Training()
    weight: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.weight <= 0 or self.temperature <= 0:
            raise ValueError("weight and temperature are above 0")
        if self.pretrained and self.weights:
            raise ValueError("pretrained and weights exclude each other; give only one of them")
        if self.training.epochs < 1 and not (self.pretrained or self.weights):
            raise ValueError("a teacher without training (epochs = 0) needs pretrained = true or weights")
        if self.size is not None and not 8 <= self.size <= 1024:
            raise ValueError("size is between 8 and 1024 pixels")


class StudentRecipe(Table, frozen=True, kw_only=True):
    """The student's shape (see `trainer.models.Student`) and its loss (see `trainer.losses`).

    Attributes:
        tokens: The bias tokens, one for each teacher: `learned` tokens behind one stem, or `stems`: two stems, one of
            convolution and one of involution, whose means are added to the first two tokens (Co-advise).
        stem: How patches are made: `patch` is one strided convolution, `conv` is several 3x3 convolutions of stride 2.
            With `tokens = "stems"` it has no effect.
        patch: The pixels between neighbouring tokens. It is a power of two for the `conv` stem, and even for `stems`.
        width: The width of the transformer: the size of a token.
        depth: The number of its blocks.
        heads: The number of attention heads in a block. `width` is a multiple of it.
        mlp_ratio: The width of the hidden layer in a block's MLP, as a multiple of `width`.
        drop_path: The stochastic depth of the last block; that of the others grows linearly up to it.
        label_weight: The weight of the labels' term in the loss.
        loss: The loss of a bias head towards its teacher: `kl`, `hard`, `dkd` or `dist`.
        loss_args: Further arguments of that loss.
        standardize: Whether the logits of student and teacher are standardised before that loss.
        ensemble: With `per-token`, head k learns from teacher k. With `mean-prob` and `mean-logit`, every bias head
            learns from the mean of all teachers.
        training: The student's schedule.
    """

    tokens: Literal["learned", "stems"] = "learned"
    stem: Literal["patch", "conv"] = "conv"
    patch: int = 4
    width: int = 192
    depth: int = 9
    heads: int = 3
    mlp_ratio: float = 2.0
    drop_path: float = 0.0
    label_weight: float = 1.0
    loss: Literal["kl", "hard", "dkd", "dist"] = "kl"
    loss_args: dict[str, float] = {}
    standardize: bool = False
    ensemble: Literal["per-token", "mean-prob", "mean-logit"] = "per-token"
    training: Training = Training()

    def __post_init__(self) -> None:
        if min(self.patch, self.width, self.depth, self.heads) < 1 or self.mlp_ratio <= 0 or self.width % self.heads:
            raise ValueError("the numbers of the shape are positive, and width is a multiple of heads")
        if self.tokens == "stems":
            if self.patch % 2:
                raise ValueError("with tokens = 'stems', patch is even")
        elif self.stem == "conv" and (self.patch < 2 or self.patch & (self.patch - 1)):
            raise ValueError("with stem = 'conv', patch is a power of two from 2 on")
        if not 0 <= self.drop_path < 1 or self.label_weight < 0:
            raise ValueError("drop_path is at least 0 and below 1, label_weight not negative")
        if self.training.epochs < 1:
            raise ValueError("the student's epochs are at least 1")
        check_loss_args(self.loss, self.loss_args)


class Recipe(Table, frozen=True, kw_only=True):
    """Everything that decides the outcome of a run, apart from its data.

    Attributes:
        seed: The seed of everything that is random: initial weights, views, and the order of the images.
        data: How images become pixels, and which of them are held out.
        views: What the student sees, and where its teachers' answers come from.
        teachers: A table for each teacher, by its name. Their order is the order of the bias tokens.
        student: The student's shape and its loss.
    """

    seed: int = 0
    data: DataRecipe = DataRecipe()
    views: ViewsRecipe = ViewsRecipe()
    teachers: dict[str, TeacherRecipe]
    student: StudentRecipe = StudentRecipe()

    def __post_init__(self) -> None:
        if not self.teachers:
            raise ValueError("at least one [teachers.NAME] table is needed")
        for name in self.teachers:
            if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
                raise ValueError(f"a teacher's name consists of letters, digits, - and _, not {name!r}")

    def hash(self) -> str:
        """Return a hash of all values."""
        values = json.dumps([msgspec.to_builtins(self), list(self.teachers)], sort_keys=True)
        return sha256(values.encode())[:16]


RECIPES = Path(__file__).parent / "recipes"
LARGEST_SMALL = 48
"""Up to this height and width in pixels, the default recipe is the one for small images."""


def shipped_recipes() -> dict[str, Path]:
    """Return the files of the recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.toml"))}


def read_recipe(source: str | Path) -> Recipe:
    """Return the recipe in a TOML file, or a recipe that comes with the package: `small`, `large` or `demo`.

    Raises:
        RecipeError: the file is missing or not TOML, a key is unknown, or a value is out of range.
    """
    shipped = shipped_recipes()
    path = shipped.get(str(source), Path(source))
    if not path.is_file():
        raise RecipeError(f"{source}: no such recipe; name a TOML file or one of {', '.join(shipped)}")
    try:
        table = msgspec.toml.decode(read_text(path))
    except (OSError, msgspec.DecodeError, ValueError) as fault:
        raise RecipeError(f"{path}: not TOML: {fault}") from None
    return to_struct(table, Recipe, str(path))


def recipe_for(size: int) -> Recipe:
    """Return the default recipe for images of `size` pixels in height and width."""
    return read_recipe("small" if size <= LARGEST_SMALL else "large")


def write_recipe(recipe: Recipe) -> str:
    """Return the recipe as TOML, with all values, defaults included."""
    return msgspec.toml.encode(without_none(msgspec.to_builtins(recipe))).decode()


def without_none(table: dict[str, Any]) -> dict[str, Any]:
    """Return the table without the keys whose value is None, which TOML can't express."""
    return {k: without_none(v) if isinstance(v, dict) else v for k, v in table.items() if v is not None}


def differences(one: Recipe, other: Recipe) -> dict[str, tuple[object, object]]:
    """Return the dotted keys in which two recipes differ, with the values of both."""
    found = dict(_differences(msgspec.to_builtins(one), msgspec.to_builtins(other), ""))
    orders = list(one.teachers), list(other.teachers)  # the order of the bias tokens
    return found if found or orders[0] == orders[1] else {"teachers": orders}


def _differences(one: object, other: object, path: str) -> Iterator[tuple[str, tuple[object, object]]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in (*one, *(key for key in other if key not in one)):
            yield from _differences(one.get(key), other.get(key), f"{path}.{key}".lstrip("."))
    elif one != other:
        yield path, (one, other)

"""One typed recipe: all that decides a run's outcome, its data aside. Read from TOML; an unknown key is an error."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import msgspec

from .device import Precision
from .errors import RecipeError
from .losses import check_loss_args
from .views import ExtraSpec, ViewSpec


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of a recipe."""


class DataRecipe(Table, frozen=True, kw_only=True):
    """How pictures become pixels and which of them are held back.

    Attributes:
        size: height and width, in pixels, of what the nets see. Default: the pictures' own median size, at most 96.
        holdout: share of each class that is held back for validation (and, where the data has no test set either,
            the same again for the test).
        labels: share of each class whose labels are used; the other training pictures are taken as unlabelled.
        memory_gb: training pictures that take more than this, once decoded, are decoded anew in every epoch.
        mean, std: of the normalisation, a channel each, for pixels in 0..1; ImageNet's by default.
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
    """What the student sees, and where its teachers' answers for it come from.

    Attributes:
        mode: `replay`: `count` views are stored and taken in turn by the epochs; `exact`: every epoch has a stored
            view of its own; `clean`: one stored view, the untouched picture (weak, for comparison); `online`: nothing
            is stored, the teachers answer while the student learns.
        count: of the stored views, in mode `replay`.
        spec: of the views.
        top_k: store only so many of each answer's logits, and the mass of the others; 0 is all of them. Default: all
            up to 1,000 classes, else 100.
        extra: further augmentation that the student alone sees, on top of the view that the teachers answered for.
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
    """A schedule: AdamW, linear warm-up and cosine decay, clipping, an average of the weights.

    Attributes:
        epochs, batch: a batch is even, for pictures are laid out in pairs.
        lr: the peak, at that batch; it ends at a hundredth.
        warmup: epochs, may be a fraction.
        weight_decay: of matrices and tokens; biases and norms have none.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights, which are the ones that are kept; 0 is off.
        smoothing: of the labels.
        precision: of the arithmetic; `auto` is bf16 where the device has it in hardware.
        compile: the net by torch.compile.
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
    """One teacher: any timm name, how it is trained, and how the student listens to it.

    Attributes:
        model: a name that `timm.create_model` knows.
        args: further arguments for it.
        pretrained: start from the weights that timm has for it (downloaded once).
        weights: start from a file of its weights by timm's names, safetensors or a plain torch state dictionary.
            Weights of another number of classes leave the classifier out. With `training.epochs` = 0 the teacher is
            taken as it is.
        size: pixels a side that it sees, if not those of the data.
        mean, std: of its normalisation. Default: timm's for `pretrained` weights or for a file of them, else the
            data's.
        views: what is done to the pictures while it is trained.
        training: its schedule.
        weight: of its term in the student's loss.
        temperature: that its and the student's logits are divided by there.
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
            raise ValueError("pretrained and weights are two sources of the same; give one")
        if self.training.epochs < 1 and not (self.pretrained or self.weights):
            raise ValueError("a teacher without training (epochs = 0) needs pretrained = true or weights")
        if self.size is not None and not 8 <= self.size <= 1024:
            raise ValueError("size is between 8 and 1024 pixels")


class StudentRecipe(Table, frozen=True, kw_only=True):
    """The student's shape (see `trainer.models.Student`) and what it minimises (see `trainer.losses`).

    Attributes:
        label_weight: of the labels' term in the loss.
        loss: of a bias head towards its teacher: `kl`, `hard`, `dkd` or `dist`.
        loss_args: further arguments of that loss.
        standardize: logits, the student's and the teacher's, are standardised before it.
        ensemble: `per-token`: head k learns from teacher k; `mean-prob`, `mean-logit`: every bias head learns from
            the mean of all teachers.
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
            raise ValueError("the shape is of positive numbers, and width a multiple of heads")
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
    """A run. Teachers are named tables; their order is that of the bias tokens."""

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
                raise ValueError(f"a teacher's name is of letters, digits, - and _, not {name!r}")


RECIPES = Path(__file__).parent / "recipes"
LARGEST_SMALL = 48
"""Up to this many pixels a side, the default recipe is the one for small pictures."""


def read_recipe(source: str | Path) -> Recipe:
    """A recipe from a TOML file, or one that comes with the package by its name (`small`, `large`, `demo`).

    Raises:
        RecipeError: there is none, it is not TOML, a key is unknown, or a value is out of range.
    """
    shipped = {path.stem: path for path in sorted(RECIPES.glob("*.toml"))}
    path = shipped.get(str(source), Path(source))
    if not path.is_file():
        raise RecipeError(f"{source}: no such recipe; name a TOML file or one of {', '.join(shipped)}")
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except msgspec.ValidationError as fault:
        raise RecipeError(f"{path}: {fault}; see `Recipe` in the README for the keys") from None
    except (msgspec.DecodeError, ValueError) as fault:
        raise RecipeError(f"{path}: not TOML: {fault}") from None


def recipe_for(size: int) -> Recipe:
    """The recipe that is taken where none is named, for pictures of `size` pixels."""
    return read_recipe("small" if size <= LARGEST_SMALL else "large")


def write_recipe(recipe: Recipe) -> str:
    """The recipe, whose `data.size` is settled, as TOML with every value spelled out that is not left to another."""
    return msgspec.toml.encode(_said(msgspec.to_builtins(recipe))).decode()


def _said(table: dict[str, Any]) -> dict[str, Any]:
    """Without what is None, which TOML has no word for."""
    return {k: _said(v) if isinstance(v, dict) else v for k, v in table.items() if v is not None}

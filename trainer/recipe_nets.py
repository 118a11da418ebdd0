"""The tables of a recipe that describe nets: how a net is trained, the teachers, and the student."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from .device import Precision
from .losses import check_loss_args
from .views import ViewSpec


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of a recipe. Unknown keys are errors."""


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
        lr_scale: For a net from published weights: the learning rate of these weights, as a share of `lr`. What is new
            learns at `lr`: a student's heads and bias tokens, a teacher's classifier.
        frozen: For a net from published weights: the number of epochs at the start in which these weights do not
            change; it may be all.
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
    lr_scale: float = 1.0
    frozen: int = 0
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
        if not 0 < self.lr_scale <= 1 or self.frozen < 0:
            raise ValueError("lr_scale is above 0 and at most 1, frozen is not negative")

    def from_scratch(self) -> Training:
        """Return the schedule without what is only for published weights."""
        return msgspec.structs.replace(self, lr_scale=1.0, frozen=0)


def _check_start(pretrained: bool, weights: str | None, training: Training) -> None:
    """Refuse what does not go together with where a net's first weights come from."""
    if pretrained and weights:
        raise ValueError("pretrained and weights exclude each other; give only one of them")
    if not (pretrained or weights) and training != training.from_scratch():
        raise ValueError("lr_scale and frozen are for published weights; set pretrained or weights, or leave them out")


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
        _check_start(self.pretrained, self.weights, self.training)
        if self.training.epochs < 1 and not (self.pretrained or self.weights):
            raise ValueError("a teacher without training (epochs = 0) needs pretrained = true or weights")
        if self.size is not None and not 8 <= self.size <= 1024:
            raise ValueError("size is between 8 and 1024 pixels")

    def from_scratch(self) -> TeacherRecipe:
        """Return the same net, to be trained for at least an epoch, without published weights."""
        training = msgspec.structs.replace(self.training.from_scratch(), epochs=max(1, self.training.epochs))
        return msgspec.structs.replace(self, pretrained=False, weights=None, training=training)


SHAPE = ("tokens", "stem", "patch", "width", "depth", "heads", "mlp_ratio")
"""The keys of a student's shape, which `model` decides."""


class StudentRecipe(Table, frozen=True, kw_only=True):
    """The student's shape (see `trainer.models.Student`) or published net, and its loss (see `trainer.losses`).

    Attributes:
        model: The name of a vision transformer of timm, such as `vit_tiny_patch16_224`, that is the student's trunk. It
            decides the shape, so that the keys from `tokens` to `mlp_ratio` are left out.
        pretrained: Whether it starts from the weights that timm has for `model`. They are downloaded once. The heads
            and the bias tokens are new, and the positions are interpolated to the size of the images.
        weights: A file of weights for `model` to start from, with timm's names: safetensors, or a plain torch state
            dictionary.
        mean, std: The normalisation of its input. The default is timm's with `pretrained` or `weights`, and else that
            of the data.
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

    model: str | None = None
    pretrained: bool = False
    weights: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
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
        self._check_model()
        _check_start(self.pretrained, self.weights, self.training)
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

    def _check_model(self) -> None:
        if self.model is None:
            if self.pretrained or self.weights:
                raise ValueError("published weights need student.model, the name of their net in timm")
            return
        usual = {field.name: field.default for field in msgspec.structs.fields(self)}
        if given := [key for key in SHAPE if getattr(self, key) != usual[key]]:
            raise ValueError(f"model decides the shape; leave {', '.join(given)} out, or model")

    @property
    def title(self) -> str:
        """The name of this net in one word: that of timm, or its shape."""
        return self.model or f"vit-{self.stem}{self.patch}-{self.width}x{self.depth}"

    def from_scratch(self) -> StudentRecipe:
        """Return the same net without published weights."""
        training = self.training.from_scratch()
        return msgspec.structs.replace(self, pretrained=False, weights=None, training=training)

"""The quality of a model's answers: accuracy, likelihood, calibration, confusion."""

from __future__ import annotations

from typing import TypedDict

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import parallel
from .data import Dataset, Preprocessing, Split, to_input
from .device import Precision, autocast

EVALUATION_BATCH = 512
_PRIOR_DEVIATION = 0.5
FOLDS = 5


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """The quality of one model's answers on one split.

    Attributes:
        images: the number of images.
        top1: the share of images whose most probable class is the right one.
        nll: the mean negative log-likelihood of the right class.
        ece: the expected calibration error.
        majority: the share of images in the largest class: the top-1 of a model that always answers that class.
        answered: how many different classes are answered. Both are None in the records of earlier versions.
    """

    images: int
    top1: float
    nll: float
    ece: float
    majority: float | None = None
    answered: int | None = None


class Scores(TypedDict):
    """The scores of one model. Nothing in a run is chosen by the score on the test split."""

    validation: Score
    test: Score


@torch.no_grad()
def logits_of(model: nn.Module, split: Split, preprocessing: Preprocessing, precision: Precision = "fp32") -> Tensor:
    """Return a model's logits for whole, unaugmented images, float32 [N, classes], on the model's device.

    Processes that train together share the work, and each gets all logits.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    answers = []
    own = torch.arange(len(split))[parallel.share(len(split))]
    for images in split.images.feed(own.split(EVALUATION_BATCH), device):
        pixels = to_input(images.permute(0, 3, 1, 2).to(torch.float32) / 255, preprocessing)
        with autocast(precision, device):
            answers.append(model(pixels).float())
    model.train(was_training)
    return parallel.joined_rows(torch.cat(answers), len(split))


def top1(logits: Tensor, labels: Tensor) -> float:
    """Return the share of samples whose largest logit is that of the label."""
    return (logits.argmax(-1) == labels).float().mean().item()


def majority(labels: Tensor) -> float:
    """Return the share of the largest class: the accuracy of a model that always answers that class."""
    return labels.bincount().max().item() / len(labels)


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error (Guo et al., 2017), from |confidence - accuracy| in bins of equal width."""
    confidence, answer = probabilities.max(-1)
    right = (answer == labels).to(confidence.dtype)
    bin_of = (confidence * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=confidence.dtype, device=confidence.device).index_add_(0, bin_of, confidence - right)
    return (gaps.abs().sum() / len(labels)).item()


def confusion(answers: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return how often each class was answered for each true class, int64 [true class, answered class]."""
    return torch.bincount(labels * classes + answers, minlength=classes**2).reshape(classes, classes)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature by which logits are divided so that held-out samples are most likely (Guo et al., 2017).

    Its logarithm has a normal prior with mean 0 and deviation 0.5. Without the prior, a few samples that are all
    answered correctly would drive the temperature to 0. With hundreds of samples the prior has no effect.
    """
    log_temperature = torch.zeros((), device=logits.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        prior = log_temperature.square() / (2 * _PRIOR_DEVIATION**2 * len(labels))
        loss = F.cross_entropy(logits / log_temperature.exp(), labels) + prior
        loss.backward()
        return loss

    optimizer.step(closure)
    return log_temperature.exp().item()


def helpful_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the fitted temperature if held-out samples say that it helps, and else 1.

    In a cross-validation, each part of the samples is judged at the temperature that fits the others. It helps if the
    mean likelihood of the samples grows by more than its standard error.
    """
    parts = torch.arange(len(labels), device=labels.device) % FOLDS
    gains = []
    for part in parts.unique():
        held = parts == part
        temperature = fit_temperature(logits[~held], labels[~held]) if (~held).any() else 1.0
        before, after = (
            F.cross_entropy(logits[held] / value, labels[held], reduction="none") for value in (1.0, temperature)
        )
        gains.append(before - after)
    gain = torch.cat(gains).double()
    if len(gain) < 2 or not gain.mean() > gain.std() / len(gain) ** 0.5:
        return 1.0
    return fit_temperature(logits, labels)


def score(logits: Tensor, labels: Tensor) -> Score:
    """Return the score of one model on one split, from logits [N, classes] and labels int64 [N]."""
    labels = labels.to(logits.device)
    return Score(
        images=len(labels),
        top1=top1(logits, labels),
        nll=F.cross_entropy(logits, labels).item(),
        ece=calibration_error(logits.softmax(-1), labels),
        majority=majority(labels),
        answered=len(logits.argmax(-1).unique()),
    )


def judge(model: nn.Module, data: Dataset, preprocessing: Preprocessing) -> Scores:
    """Return a model's scores on the validation and the test images."""

    def judged(split: Split) -> Score:
        return score(logits_of(model, split, preprocessing), split.labels)

    return Scores(validation=judged(data.validation), test=judged(data.test))

"""The quality of a model's answers: accuracy, likelihood, calibration, confusion."""

from __future__ import annotations

from typing import TypedDict

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import Dataset, Preprocessing, Split, to_input
from .device import Precision, autocast

EVALUATION_BATCH = 512
_PRIOR_DEVIATION = 0.5


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """The quality of one model's answers on one split.

    Attributes:
        images: the number of images.
        top1: the share of images whose most probable class is the right one.
        nll: the mean negative log-likelihood of the right class.
        ece: the expected calibration error.
    """

    images: int
    top1: float
    nll: float
    ece: float


class Scores(TypedDict):
    """The scores of one model. Nothing in a run is chosen by the score on the test split."""

    validation: Score
    test: Score


@torch.no_grad()
def logits_of(model: nn.Module, split: Split, preprocessing: Preprocessing, precision: Precision = "fp32") -> Tensor:
    """Return a model's logits for whole, unaugmented images, float32 [N, classes], on the model's device."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    answers = []
    for images in split.images.feed(torch.arange(len(split)).split(EVALUATION_BATCH), device):
        pixels = to_input(images.permute(0, 3, 1, 2).to(torch.float32) / 255, preprocessing)
        with autocast(precision, device):
            answers.append(model(pixels).float())
    model.train(was_training)
    return torch.cat(answers)


def top1(logits: Tensor, labels: Tensor) -> float:
    """Return the share of samples whose largest logit is that of the label."""
    return (logits.argmax(-1) == labels).float().mean().item()


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


def score(logits: Tensor, labels: Tensor) -> Score:
    """Return the score of one model on one split, from logits [N, classes] and labels int64 [N]."""
    labels = labels.to(logits.device)
    return Score(
        images=len(labels),
        top1=top1(logits, labels),
        nll=F.cross_entropy(logits, labels).item(),
        ece=calibration_error(logits.softmax(-1), labels),
    )


def judge(model: nn.Module, data: Dataset, preprocessing: Preprocessing) -> Scores:
    """Return a model's scores on the validation and the test images."""

    def judged(split: Split) -> Score:
        return score(logits_of(model, split, preprocessing), split.labels)

    return Scores(validation=judged(data.validation), test=judged(data.test))

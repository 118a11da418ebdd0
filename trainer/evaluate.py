"""How good are probabilities: accuracy, likelihood, calibration, confusion."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import Dataset, Preprocessing, Split, to_input
from .device import Precision, autocast

EVALUATION_BATCH = 512
_PRIOR_DEVIATION = 0.5


@torch.no_grad()
def logits_of(model: nn.Module, split: Split, preprocessing: Preprocessing, precision: Precision = "fp32") -> Tensor:
    """A model's answers for whole, untouched pictures, float32 [N, classes], on the model's device."""
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
    """Share of samples whose largest logit is the label's."""
    return (logits.argmax(-1) == labels).float().mean().item()


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error (Guo et al., 2017): |confidence - accuracy| over equal-width bins."""
    confidence, answer = probabilities.max(-1)
    right = (answer == labels).to(confidence.dtype)
    bin_of = (confidence * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=confidence.dtype, device=confidence.device).index_add_(0, bin_of, confidence - right)
    return (gaps.abs().sum() / len(labels)).item()


def confusion(answers: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Counts, int64 [true class, answered class]."""
    return torch.bincount(labels * classes + answers, minlength=classes**2).reshape(classes, classes)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that makes held-out samples most likely (Guo et al., 2017); logits are then divided by it.

    Its logarithm has a prior, normal around 0 with a deviation of 0.5: a handful of samples that are all right would
    otherwise drive it to 0. Among hundreds the prior counts for nothing.
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


def score(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """The figures of one model on one split."""
    labels = labels.to(logits.device)
    return {
        "images": len(labels),
        "top1": top1(logits, labels),
        "nll": F.cross_entropy(logits, labels).item(),
        "ece": calibration_error(logits.softmax(-1), labels),
    }


def judge(model: nn.Module, data: Dataset, preprocessing: Preprocessing) -> dict[str, dict[str, Any]]:
    """The figures on the held-out data; nothing in a run is chosen by those of the test set."""
    splits = {"validation": data.validation, "test": data.test}
    return {name: score(logits_of(model, split, preprocessing), split.labels) for name, split in splits.items()}

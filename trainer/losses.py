"""What the student is asked to minimise: functions from logits to named losses.

Shapes: B batch, H heads (the class head, then the bias heads), T teachers, C classes. All logits are finite.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """Cross entropy with soft and maybe partial labels, mean over the labelled mass.

    A row of `targets_BC` sums to 1, or to less where a part of its picture has no label: an unlabelled one is all
    zero. Where nothing is labelled the loss and its gradient are 0.
    """
    mass = targets_BC.sum()
    loss = -(targets_BC * F.log_softmax(logits_BC, dim=-1)).sum()
    return loss / mass.clamp(min=torch.finfo(mass.dtype).tiny)  # 0 / 0 is not a number; 0 / tiny is 0


def kl(student_BC: Tensor, teacher_BC: Tensor, targets_BC: Tensor, temperature: float) -> Tensor:
    """`T^2 * KL(teacher || student)` of the softmaxes at temperature T, summed over classes, mean over the batch.

    Hinton et al., 2015 (arXiv 1503.02531). Dividing by the number of classes too would all but switch it off. Labels
    are not looked at.
    """
    student, teacher = (F.log_softmax(logits / temperature, dim=-1) for logits in (student_BC, teacher_BC))
    return temperature**2 * _kl_of_logs(student, teacher)


def hard(student_BC: Tensor, teacher_BC: Tensor, targets_BC: Tensor, temperature: float) -> Tensor:
    """Cross entropy with the class that the teacher thinks most likely, mean over the batch.

    DeiT's hard-label distillation (Touvron et al., ICML 2021, arXiv 2012.12877). Neither labels nor the temperature
    are looked at.
    """
    return F.cross_entropy(student_BC, teacher_BC.argmax(-1))


def dkd(
    student_BC: Tensor,
    teacher_BC: Tensor,
    targets_BC: Tensor,
    temperature: float,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """Decoupled distillation, `T^2 * (alpha * KL(target or not) + beta * KL(among the others))`, mean over the batch.

    Zhao et al., CVPR 2022 (arXiv 2203.08679). The target is the class of the largest label or, in a row without
    labels, the teacher's most likely class. KL itself is the case of alpha = 1 and beta = the teacher's mass outside
    the target, which sure teachers let vanish.
    """
    labelled_B = targets_BC.sum(-1) > 0
    index_B = torch.where(labelled_B, targets_BC.argmax(-1), teacher_BC.argmax(-1))
    student, student_others = _decoupled(student_BC / temperature, index_B)
    teacher, teacher_others = _decoupled(teacher_BC / temperature, index_B)
    of_target, of_others = _kl_of_logs(student, teacher), _kl_of_logs(student_others, teacher_others)
    return temperature**2 * (alpha * of_target + beta * of_others)


def dist(
    student_BC: Tensor,
    teacher_BC: Tensor,
    targets_BC: Tensor,
    temperature: float,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    """`T^2 * (beta * (1 - r of rows) + gamma * (1 - r of columns))`, r Pearson's mean correlation of the softmaxes.

    Huang et al., NeurIPS 2022 (arXiv 2205.10536). A row or column that is constant correlates with nothing, itself
    included: r = 0. Labels are not looked at.
    """
    student, teacher = (F.softmax(logits / temperature, dim=-1) for logits in (student_BC, teacher_BC))
    rows, columns = (1 - _correlation(student, teacher, dim).mean() for dim in (1, 0))
    return temperature**2 * (beta * rows + gamma * columns)


LOSSES: dict[str, Callable[..., Tensor]] = {"kl": kl, "hard": hard, "dkd": dkd, "dist": dist}
"""Losses of a bias head towards its teacher: (student [B, C], teacher [B, C], targets [B, C], temperature, **own)."""


def check_loss_args(loss: str, loss_args: Mapping[str, float]) -> None:
    """Raises ValueError: `loss` is none of `LOSSES`, or has no keyword argument of a name in `loss_args`."""
    if loss not in LOSSES:
        raise ValueError(f"loss is one of {', '.join(LOSSES)}, not {loss!r}")
    parameters = inspect.signature(LOSSES[loss]).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for name in loss_args:
        if name not in known:
            raise ValueError(f"the loss {loss} has no argument {name!r}; it has {' and '.join(known) or 'none'}")


def standardized(logits_BC: Tensor) -> Tensor:
    """`(z - mean) / (std + 1e-7)` over the classes: only the order and the relations of the logits are left.

    Sun et al., CVPR 2024 (arXiv 2403.01427). As in their released code, std is the sample's (of C - 1), which asks
    for two classes at least.
    """
    std, mean = torch.std_mean(logits_BC, dim=-1, keepdim=True)
    return (logits_BC - mean) / (std + 1e-7)


def mean_probability(teachers_BTC: Tensor, shares: Sequence[float], temperatures: Sequence[float]) -> Tensor:
    """Logits [B, C] whose softmax at the mean temperature is the mean of the teachers' softmaxes, each at its own.

    The arithmetic mean of Hinton et al., 2015 (arXiv 1503.02531). `shares` sum to 1.
    """
    answers = zip(teachers_BTC.unbind(1), shares, temperatures, strict=True)
    logs = [math.log(share) + F.log_softmax(logits / temperature, dim=-1) for logits, share, temperature in answers]
    return _mean_temperature(shares, temperatures) * torch.logsumexp(torch.stack(logs), dim=0)


def mean_logit(teachers_BTC: Tensor, shares: Sequence[float], temperatures: Sequence[float]) -> Tensor:
    """The mean [B, C] of the teachers' logits: where temperatures are equal, the geometric mean of their softmaxes.

    See Hinton et al., 2015 (arXiv 1503.02531). `shares` sum to 1.
    """
    return torch.stack([s * logits for s, logits in zip(shares, teachers_BTC.unbind(1), strict=True)]).sum(0)


MEANS = {"mean-prob": mean_probability, "mean-logit": mean_logit}
ENSEMBLES = ("per-token", *MEANS)


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """How the student is taught.

    Args:
        names, weights, temperatures: of the teachers, in the order of their logits; weights and temperatures are
            above 0.
        label_weight: of the labels' term.
        loss: of a bias head towards its teacher, a key of `LOSSES`.
        loss_args: further arguments of that loss.
        standardize: the student's and the teacher's logits, before that loss.
        ensemble: what the bias heads learn from, one of `ENSEMBLES`; see `head_targets`.

    Raises:
        ValueError: the loss, one of its arguments or the ensemble is unknown; there is no teacher, a name comes
            twice, or there are not as many names as weights and temperatures.
    """

    names: Sequence[str]
    weights: Sequence[float]
    temperatures: Sequence[float]
    label_weight: float = 1.0
    loss: str = "kl"
    loss_args: Mapping[str, float] = field(default_factory=dict)
    standardize: bool = False
    ensemble: str = "per-token"

    def __post_init__(self) -> None:
        check_loss_args(self.loss, self.loss_args)
        if self.ensemble not in ENSEMBLES:
            raise ValueError(f"ensemble is one of {', '.join(ENSEMBLES)}, not {self.ensemble!r}")
        if not 0 < len(set(self.names)) == len(self.names) == len(self.weights) == len(self.temperatures):
            raise ValueError("every teacher has a name of its own, a weight and a temperature")


class HeadTarget(NamedTuple):
    """What one bias head learns from: `logits` [B, C], `weight` and `temperature` of its loss, and the term's name."""

    name: str
    logits: Tensor
    weight: float
    temperature: float


def head_targets(teachers_BTC: Tensor, teaching: Teaching, heads: int) -> list[HeadTarget]:
    """What each of `heads` bias heads learns from, given the logits of all teachers.

    `per-token`: head k from teacher k; fewer teachers than heads can't be shared out so, and every head then learns
    from the mean of their logits. `mean-prob`, `mean-logit`: every head from the same mean of all teachers. A mean is
    by the teachers' weights, that of their temperatures too, and its heads share the sum of the weights evenly.

    Raises:
        ValueError: T is not the number of `teaching`'s teachers, or `per-token` has more teachers than heads.
    """
    names, weights, temperatures = teaching.names, teaching.weights, teaching.temperatures
    if teaching.ensemble == "per-token":
        if len(names) > heads:
            raise ValueError(f"per-token has a bias head for each teacher: not {heads} for {len(names)}")
        if len(names) == heads:
            terms = [f"teacher {name}" for name in names]
            return [
                HeadTarget(*each) for each in zip(terms, teachers_BTC.unbind(1), weights, temperatures, strict=True)
            ]
    shares = [weight / sum(weights) for weight in weights]
    logits = MEANS.get(teaching.ensemble, mean_logit)(teachers_BTC, shares, temperatures)
    weight, temperature = sum(weights) / len(weights), _mean_temperature(shares, temperatures)
    return [HeadTarget(f"bias head {k + 1}", logits, weight, temperature) for k in range(heads)]


def distillation(logits_BHC: Tensor, targets_BC: Tensor, teachers_BTC: Tensor, teaching: Teaching) -> dict[str, Tensor]:
    """Head 0 learns from the labels, each other head its target; the sum of the named losses is to be minimised.

    With KL, per token, this is equation 5 of Co-advise (Ren et al., CVPR 2022, arXiv 2106.12378):
    `w0 CE + sum_k w_k T_k^2 KL_k`. The names are `labels` and, per token, `teacher NAME`, else `bias head K`.

    Raises:
        ValueError: see `head_targets`.
    """
    loss = LOSSES[teaching.loss]
    prepare = standardized if teaching.standardize else _unchanged
    losses = {"labels": teaching.label_weight * soft_cross_entropy(logits_BHC[:, 0], targets_BC)}
    for k, target in enumerate(head_targets(teachers_BTC, teaching, logits_BHC.shape[1] - 1), start=1):
        student, teacher = prepare(logits_BHC[:, k]), prepare(target.logits)
        distance = loss(student, teacher, targets_BC, target.temperature, **teaching.loss_args)
        losses[target.name] = target.weight * distance
    return losses


def labels_alone(logits_BHC: Tensor, targets_BC: Tensor) -> dict[str, Tensor]:
    """The same student without teachers: every head learns from the labels."""
    heads = logits_BHC.shape[1]
    every = soft_cross_entropy(logits_BHC.flatten(0, 1), targets_BC.repeat_interleave(heads, dim=0))
    return {"labels": every}


def _kl_of_logs(student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _decoupled(logits_BC: Tensor, index_B: Tensor) -> tuple[Tensor, Tensor]:
    """Log probabilities of the class `index` and of all others together [B, 2], and those among the others
    [B, C - 1]. All in logarithms, for the others of a sure teacher have next to no mass."""
    index = index_B[:, None]
    others = torch.arange(logits_BC.shape[1] - 1, device=logits_BC.device)
    others = others + (others >= index)
    logs = F.log_softmax(logits_BC, dim=-1)
    among = logs.gather(1, others)
    binary = torch.cat([logs.gather(1, index), among.logsumexp(-1, keepdim=True)], dim=1)
    return binary, F.log_softmax(among, dim=-1)


def _correlation(first: Tensor, second: Tensor, dim: int) -> Tensor:
    """Pearson's, along `dim`. `cosine_similarity` holds each norm above 1e-8, about the rounding of a float32
    probability, so that a vector that varies by less goes to 0 smoothly instead of dividing by nothing."""
    first, second = (values - values.mean(dim, keepdim=True) for values in (first, second))
    return F.cosine_similarity(first, second, dim=dim)


def _mean_temperature(shares: Sequence[float], temperatures: Sequence[float]) -> float:
    return sum(share * temperature for share, temperature in zip(shares, temperatures, strict=True))


def _unchanged(logits_BC: Tensor) -> Tensor:
    return logits_BC

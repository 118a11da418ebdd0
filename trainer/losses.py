"""The losses of the student: functions from logits to named losses.

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
    """Return the cross entropy with soft labels, which may be partial; the mean is over the labelled mass.

    A row of `targets_BC` sums to 1, or to less if a part of its image has no label. The row of an unlabelled image is
    zero. If nothing is labelled, the loss and its gradient are 0.
    """
    mass = targets_BC.sum()
    loss = -(targets_BC * F.log_softmax(logits_BC, dim=-1)).sum()
    return loss / mass.clamp(min=torch.finfo(mass.dtype).tiny)  # 0 / 0 is not a number; 0 / tiny is 0


def kl(student_BC: Tensor, teacher_BC: Tensor, targets_BC: Tensor, temperature: float) -> Tensor:
    """Return `T^2 * KL(teacher || student)` of the softmaxes at temperature T.

    It is the sum over the classes and the mean over the batch (Hinton et al., 2015, arXiv 1503.02531). A mean over the
    classes as well would make the loss almost vanish. The labels are not used.
    """
    student, teacher = (F.log_softmax(logits / temperature, dim=-1) for logits in (student_BC, teacher_BC))
    return temperature**2 * _kl_of_logs(student, teacher)


def hard(student_BC: Tensor, teacher_BC: Tensor, targets_BC: Tensor, temperature: float) -> Tensor:
    """Return the cross entropy with the most likely class of the teacher, mean over the batch.

    This is the hard-label distillation of DeiT (Touvron et al., ICML 2021, arXiv 2012.12877). The labels and the
    temperature are not used.
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
    """Return `T^2 * (alpha * KL(target or not) + beta * KL(among the other classes))`, mean over the batch.

    This is decoupled distillation (Zhao et al., CVPR 2022, arXiv 2203.08679). The target is the class of the largest
    label; in a row without labels, it is the most likely class of the teacher. Plain KL is the case in which alpha is 1
    and beta is the mass that the teacher gives to the other classes, which is close to 0 for a confident teacher.
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
    """Return `T^2 * (beta * (1 - r of rows) + gamma * (1 - r of columns))`.

    Here r is the mean of Pearson's correlation between the softmaxes of student and teacher (Huang et al., NeurIPS
    2022, arXiv 2205.10536). A constant row or column has r = 0, even with itself. The labels are not used.
    """
    student, teacher = (F.softmax(logits / temperature, dim=-1) for logits in (student_BC, teacher_BC))
    rows, columns = (1 - _correlation(student, teacher, dim).mean() for dim in (1, 0))
    return temperature**2 * (beta * rows + gamma * columns)


LOSSES: dict[str, Callable[..., Tensor]] = {"kl": kl, "hard": hard, "dkd": dkd, "dist": dist}
"""The losses between a bias head and its teacher, by name.

Their arguments are: student [B, C], teacher [B, C], targets [B, C], temperature, and the loss's own keyword arguments.
"""


def check_loss_args(loss: str, loss_args: Mapping[str, float]) -> None:
    """Refuse an unknown loss or an unknown argument.

    Raises:
        ValueError: `loss` is not in `LOSSES`, or it has no keyword argument with a name in `loss_args`.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss is one of {', '.join(LOSSES)}, not {loss!r}")
    parameters = inspect.signature(LOSSES[loss]).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for name in loss_args:
        if name not in known:
            raise ValueError(f"the loss {loss} has no argument {name!r}; it has {' and '.join(known) or 'none'}")


def standardized(logits_BC: Tensor) -> Tensor:
    """Return `(z - mean) / (std + 1e-7)` over the classes, which keeps only the relations between the logits.

    See Sun et al., CVPR 2024 (arXiv 2403.01427). As in their published code, std divides by C - 1, so there have to be
    at least two classes.
    """
    std, mean = torch.std_mean(logits_BC, dim=-1, keepdim=True)
    return (logits_BC - mean) / (std + 1e-7)


def mean_probability(teachers_BTC: Tensor, shares: Sequence[float], temperatures: Sequence[float]) -> Tensor:
    """Return logits [B, C] whose softmax at the mean temperature is the mean of the softmaxes of the teachers.

    Each teacher's softmax is taken at its own temperature. This is the arithmetic mean of Hinton et al., 2015 (arXiv
    1503.02531). `shares` sum to 1.
    """
    answers = zip(teachers_BTC.unbind(1), shares, temperatures, strict=True)
    logs = [math.log(share) + F.log_softmax(logits / temperature, dim=-1) for logits, share, temperature in answers]
    return _mean_temperature(shares, temperatures) * torch.logsumexp(torch.stack(logs), dim=0)


def mean_logit(teachers_BTC: Tensor, shares: Sequence[float], temperatures: Sequence[float]) -> Tensor:
    """Return the mean [B, C] of the teachers' logits.

    If the temperatures are equal, it gives the geometric mean of the softmaxes of Hinton et al., 2015 (arXiv
    1503.02531). `shares` sum to 1.
    """
    return torch.stack([s * logits for s, logits in zip(shares, teachers_BTC.unbind(1), strict=True)]).sum(0)


MEANS = {"mean-prob": mean_probability, "mean-logit": mean_logit}
ENSEMBLES = ("per-token", *MEANS)


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """The loss of a student with teachers.

    Args:
        names, weights, temperatures: one of each for every teacher, in the order of their logits; weights and
            temperatures are above 0.
        label_weight: the weight of the term for the labels.
        loss: the loss between a bias head and its teacher, a key of `LOSSES`.
        loss_args: further arguments of that loss.
        standardize: whether the logits of student and teacher are standardised before that loss.
        ensemble: what the bias heads learn from, one of `ENSEMBLES`; see `head_targets`.

    Raises:
        ValueError: the loss, one of its arguments or the ensemble is unknown; or there is no teacher, a name occurs
            twice, or the numbers of names, weights and temperatures differ.
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
            raise ValueError("every teacher has its own name, a weight and a temperature")


class HeadTarget(NamedTuple):
    """The target of one bias head.

    Attributes:
        name: the name of the term in the loss.
        logits: the logits to learn, [B, C].
        weight, temperature: the weight and the temperature of the term.
    """

    name: str
    logits: Tensor
    weight: float
    temperature: float


def head_targets(teachers_BTC: Tensor, teaching: Teaching, heads: int) -> list[HeadTarget]:
    """Return what each of `heads` bias heads learns from, given the logits of all teachers.

    With `per-token`, head k learns from teacher k; if there are fewer teachers than heads, every head learns from the
    mean of the teachers' logits instead. With `mean-prob` or `mean-logit`, every head learns from the same mean of all
    teachers. Means of logits and of temperatures are weighted with the weights of the teachers; the weight of each head
    is the mean of these weights.

    Raises:
        ValueError: T is not the number of teachers in `teaching`, or `per-token` has more teachers than heads.
    """
    names, weights, temperatures = teaching.names, teaching.weights, teaching.temperatures
    if teaching.ensemble == "per-token":
        if len(names) > heads:
            raise ValueError(f"per-token needs a bias head for each teacher, not {heads} for {len(names)}")
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
    """Return the named losses of all heads; their sum is to be minimised.

    Head 0 learns from the labels, and each bias head from its target. With `kl` and `per-token`, this is equation 5 of
    Co-advise (Ren et al., CVPR 2022, arXiv 2106.12378): `w0 CE + sum_k w_k T_k^2 KL_k`. The names are `labels` and
    `bias head K`; with `per-token`, the latter are `teacher NAME`.

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
    """Return the loss of the same student without teachers: every head learns from the labels."""
    heads = logits_BHC.shape[1]
    every = soft_cross_entropy(logits_BHC.flatten(0, 1), targets_BC.repeat_interleave(heads, dim=0))
    return {"labels": every}


def _kl_of_logs(student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _decoupled(logits_BC: Tensor, index_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log probabilities of the class `index` and of all others together [B, 2], and those among the others
    [B, C - 1].

    Everything is computed in logarithms, because a confident teacher gives the other classes almost no mass.
    """
    index = index_B[:, None]
    others = torch.arange(logits_BC.shape[1] - 1, device=logits_BC.device)
    others = others + (others >= index)
    logs = F.log_softmax(logits_BC, dim=-1)
    among = logs.gather(1, others)
    binary = torch.cat([logs.gather(1, index), among.logsumexp(-1, keepdim=True)], dim=1)
    return binary, F.log_softmax(among, dim=-1)


def _correlation(first: Tensor, second: Tensor, dim: int) -> Tensor:
    """Return Pearson's correlation along `dim`.

    `cosine_similarity` keeps each norm above 1e-8, about the rounding of a float32 probability. So the correlation of a
    vector that varies by less goes to 0 smoothly, and nothing is divided by 0.
    """
    first, second = (values - values.mean(dim, keepdim=True) for values in (first, second))
    return F.cosine_similarity(first, second, dim=dim)


def _mean_temperature(shares: Sequence[float], temperatures: Sequence[float]) -> float:
    return sum(share * temperature for share, temperature in zip(shares, temperatures, strict=True))


def _unchanged(logits_BC: Tensor) -> Tensor:
    return logits_BC

"""What the student is asked to minimise: functions from logits to named losses.

Shapes: B batch, H heads (the class head, then one for each teacher), T teachers, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """Cross entropy with soft labels, mean over the batch."""
    return F.cross_entropy(logits_BC, targets_BC)


def tempered_kl(student_BC: Tensor, teacher_BC: Tensor, temperature: float) -> Tensor:
    """`T^2 * KL(teacher || student)` of the softmaxes at temperature T, summed over classes, mean over the batch.

    Hinton et al., 2015 (arXiv 1503.02531). Dividing by the number of classes too would all but switch it off.
    """
    student = F.log_softmax(student_BC / temperature, dim=-1)
    teacher = F.log_softmax(teacher_BC / temperature, dim=-1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def per_token(
    logits_BHC: Tensor,
    targets_BC: Tensor,
    teachers_BTC: Tensor,
    *,
    label_weight: float,
    weights: Sequence[float],
    temperatures: Sequence[float],
) -> dict[str, Tensor]:
    """Each head learns from its own source: head 0 from the labels, head k from teacher k.

    The loss of Co-advise (arXiv 2106.12378), equation 5: `w0 CE + sum_k w_k T_k^2 KL_k`. The total is the sum of the
    dictionary's values.
    """
    losses = {"labels": label_weight * soft_cross_entropy(logits_BHC[:, 0], targets_BC)}
    for k, (weight, temperature) in enumerate(zip(weights, temperatures, strict=True)):
        losses[f"teacher {k}"] = weight * tempered_kl(logits_BHC[:, k + 1], teachers_BTC[:, k], temperature)
    return losses


def labels_alone(logits_BHC: Tensor, targets_BC: Tensor) -> dict[str, Tensor]:
    """The same student without teachers: every head learns from the labels."""
    heads = logits_BHC.shape[1]
    every = soft_cross_entropy(logits_BHC.flatten(0, 1), targets_BC.repeat_interleave(heads, dim=0))
    return {"labels": every}

"""The answers of a run's nets to single images, and the mistakes among them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .data import Split
from .evaluate import logits_of
from .run import PLAIN, STUDENT, Run, load_student, load_teacher, teacher_stage


class Answer(NamedTuple):
    """The class that a net predicts for an image, and its probability."""

    label: int
    confidence: float


def title_of(stage: str) -> str:
    """Return what people call a net: `teacher conv`, `student`, `student without teachers`."""
    students = {STUDENT: "student", PLAIN: "student without teachers"}
    return students.get(stage, f"teacher {stage.removeprefix(teacher_stage(''))}")


def logits_of_net(run: Run, stage: str, split: Split, device: torch.device) -> Tensor:
    """Return the logits of a trained net for unchanged images, float32 [N, classes] on the CPU.

    Raises:
        RunError: the net is not trained, or what was kept of it is damaged.
    """
    if stage.startswith(teacher_stage("")):
        teacher = load_teacher(run, stage.removeprefix(teacher_stage(""))).to(device)
        return logits_of(teacher.net, split, teacher.preprocessing).cpu()
    student, _, preprocessing = load_student(run, stage)
    return logits_of(student.to(device), split, preprocessing).cpu()


def answers_in(logits: Tensor) -> list[Answer]:
    """Return the answer in each row of logits, [N, classes]."""
    best = logits.softmax(-1).max(-1)
    return [Answer(*pair) for pair in zip(best.indices.tolist(), best.values.tolist(), strict=True)]


def mistakes(logits: Tensor, truth: Tensor) -> list[int]:
    """Return the rows of logits [N, classes] that answer wrongly, those with the most confident answers first.

    Args:
        truth: the right classes, int64 [N].
    """
    confidence, answer = logits.softmax(-1).max(-1)
    wrong = (answer != truth.to(answer.device)).nonzero().flatten()
    order: list[int] = wrong[confidence[wrong].argsort(descending=True, stable=True)].tolist()
    return order

"""Losses against their formulas, written out in plain loops."""

import math

import pytest
import torch
from torch import nn

from trainer.evaluate import calibration_error, confusion, fit_temperature, score
from trainer.losses import labels_alone, per_token, tempered_kl


def softmax(row):
    top = max(row)
    powers = [math.exp(value - top) for value in row]
    return [power / sum(powers) for power in powers]


def kl_by_hand(student, teacher, temperature):
    total = 0.0
    for s_row, t_row in zip(student.tolist(), teacher.tolist(), strict=True):
        s, t = softmax([v / temperature for v in s_row]), softmax([v / temperature for v in t_row])
        total += sum(q * math.log(q / p) for p, q in zip(s, t, strict=True))
    return temperature**2 * total / len(student)


def cross_entropy_by_hand(logits, targets):
    rows = zip(logits.tolist(), targets.tolist(), strict=True)
    return sum(-sum(y * math.log(p) for y, p in zip(t, softmax(r), strict=True)) for r, t in rows) / len(logits)


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return {
        "student": 3 * torch.randn(6, 3, 5, dtype=torch.float64, requires_grad=True),
        "teachers": 3 * torch.randn(6, 2, 5, dtype=torch.float64),
        "targets": torch.rand(6, 5, dtype=torch.float64).softmax(-1),
    }


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_tempered_kl_is_its_formula(logits, temperature):
    student, teacher = logits["student"][:, 0], logits["teachers"][:, 0]
    assert tempered_kl(student, teacher, temperature).item() == pytest.approx(kl_by_hand(student, teacher, temperature))
    assert tempered_kl(teacher, teacher, temperature).item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.gradcheck(lambda s: tempered_kl(s, teacher, temperature), (student,))


def test_each_head_listens_to_its_own_source(logits):
    losses = per_token(
        logits["student"],
        logits["targets"],
        logits["teachers"],
        label_weight=0.5,
        weights=[2.0, 3.0],
        temperatures=[1.0, 4.0],
    )
    student, teachers = logits["student"], logits["teachers"]
    expected = {
        "labels": 0.5 * cross_entropy_by_hand(student[:, 0], logits["targets"]),
        "teacher 0": 2 * kl_by_hand(student[:, 1], teachers[:, 0], 1.0),
        "teacher 1": 3 * kl_by_hand(student[:, 2], teachers[:, 1], 4.0),
    }
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected)
    for head, name in enumerate(losses):
        (gradient,) = torch.autograd.grad(losses[name], student, retain_graph=True)
        touched = gradient.abs().amax((0, 2)) > 0
        assert touched.tolist() == [head == k for k in range(3)]


def test_without_teachers_every_head_learns_from_labels(logits):
    student = logits["student"]
    by_head = [cross_entropy_by_hand(student[:, head], logits["targets"]) for head in range(3)]
    assert labels_alone(student, logits["targets"])["labels"].item() == pytest.approx(sum(by_head) / 3)


def test_a_fitted_temperature_finds_the_one_that_was_put_in():
    torch.manual_seed(0)
    honest = 2 * torch.randn(20_000, 10)
    labels = torch.distributions.Categorical(logits=honest).sample()
    assert fit_temperature(2.5 * honest, labels) == pytest.approx(2.5, rel=0.03)
    assert fit_temperature(honest / 3, labels) == pytest.approx(1 / 3, rel=0.03)
    before = calibration_error((2.5 * honest).softmax(-1), labels)
    after = calibration_error(honest.softmax(-1), labels)
    assert after < 0.015 < before


def test_a_handful_of_right_answers_does_not_make_it_sure_of_everything():
    logits = 2 * torch.eye(4)
    assert 0.5 < fit_temperature(logits, torch.arange(4)) < 0.95


def test_calibration_error_of_known_cases():
    sure = torch.tensor([[1.0, 0.0]] * 4)
    assert calibration_error(sure, torch.tensor([0, 0, 0, 0])) == 0
    assert calibration_error(sure, torch.tensor([0, 0, 1, 1])) == 0.5
    mixed = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    # bin of 0.9: right half of the time, gap 0.4; bin of 0.6: always right, gap 0.4
    assert calibration_error(mixed, torch.tensor([0, 1, 0, 0])) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)


def test_scores_and_confusion_of_known_answers():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]])
    labels = torch.tensor([0, 1, 2, 2])
    result = score(logits, labels)
    assert result["images"] == 4
    assert result["top1"] == 0.75
    assert result["nll"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    assert confusion(logits.argmax(1), labels, 3).tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]

"""A temperature divides the logits only where held-out images show that it helps."""

from __future__ import annotations

import torch

from trainer.evaluate import fit_temperature, helpful_temperature, majority, score


def test_a_temperature_is_used_only_if_held_out_samples_say_that_it_helps():
    torch.manual_seed(0)
    honest = 2 * torch.randn(500, 10)
    labels = torch.distributions.Categorical(logits=honest).sample()
    assert helpful_temperature(honest, labels) == 1
    assert helpful_temperature(3 * honest, labels) == fit_temperature(3 * honest, labels) > 2
    assert helpful_temperature(3 * honest[:12], labels[:12]) in (1, fit_temperature(3 * honest[:12], labels[:12]))
    assert helpful_temperature(honest[:1], labels[:1]) == 1


def test_a_temperature_from_few_samples_rarely_hurts_the_others():
    torch.manual_seed(0)
    changed = 0
    for _ in range(40):
        honest = 2 * torch.randn(25, 4)
        labels = torch.distributions.Categorical(logits=honest).sample()
        changed += helpful_temperature(honest, labels) != 1
    assert changed <= 8


def test_a_model_that_always_answers_the_same_is_known_by_its_score():
    labels = torch.tensor([0, 0, 0, 1, 2])
    constant = score(torch.tensor([[1.0, 0.0, 0.0]]).repeat(5, 1), labels)
    assert (constant.majority, constant.answered) == (majority(labels), 1) == (0.6, 1)
    assert score(torch.eye(3)[labels], labels).answered == 3

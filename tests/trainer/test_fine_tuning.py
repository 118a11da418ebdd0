"""Published weights learn at their own rate, and not at all in the epochs in which they are frozen."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

import sdk
from jobs import CPU
from trainer.learner import Learner
from trainer.models import Student, classifiers, create_student, create_teacher
from trainer.recipe import StudentRecipe, TeacherRecipe, Training

STEPS = 3


def student() -> tuple[nn.Module, tuple[str, ...]]:
    torch.manual_seed(0)
    return create_student(StudentRecipe(model="test_vit"), 2, 5, sdk.Preprocessing.square(32)), Student.NEW


def teacher() -> tuple[nn.Module, tuple[str, ...]]:
    torch.manual_seed(0)
    recipe = TeacherRecipe(model="resnet18_small", args={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]})
    net = create_teacher(recipe, 5, sdk.Preprocessing.square(32)).net
    return net, classifiers(net)


def train(learner: Learner, steps: range) -> None:
    for number in steps:
        torch.manual_seed(number)
        learner.step(number, torch.randn(4, 3, 32, 32), lambda output: output.square().mean())


def is_new(name: str, new: tuple[str, ...]) -> bool:
    return name.startswith(new)


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("make", [student, teacher])
def test_every_parameter_is_in_one_group_with_its_rate_and_decay(make):
    net, new = make()
    learner = Learner(net, Training(lr=1e-2, lr_scale=0.1, weight_decay=0.05, warmup=0), STEPS, CPU, new)
    usual = Learner(make()[0], Training(lr=1e-2, weight_decay=0.05, warmup=0), STEPS, CPU, new)
    train(learner, range(1))
    found = {id(p): group for group in learner._optimizer.param_groups for p in group["params"]}
    plain = {id(p): group for group in usual._optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in learner._optimizer.param_groups) == len(found)
    for (name, one), (_, other) in zip(net.named_parameters(), usual.model.named_parameters(), strict=True):
        assert found[id(one)]["lr"] == pytest.approx(1e-2 if is_new(name, new) else 1e-3), name
        assert found[id(one)]["weight_decay"] == plain[id(other)]["weight_decay"], name
    assert learner.lr == pytest.approx(1e-2)


@pytest.mark.parametrize("make", [student, teacher])
def test_published_weights_and_statistics_stay_while_they_are_frozen(make):
    net, new = make()
    before = copy.deepcopy(net.state_dict())
    learner = Learner(net, Training(epochs=3, frozen=1, ema=0.5), STEPS, CPU, new)
    train(learner, range(STEPS))
    for kept in (learner.model, learner.average):
        moved = changed(before, kept.state_dict())
        assert moved
        assert all(is_new(name, new) for name in moved)
    train(learner, range(STEPS, STEPS + 1))
    moved = changed(before, learner.model.state_dict())
    assert len({name for name in moved if not is_new(name, new)}) > 10
    assert {name for name in before if "running_mean" in name} <= moved
    assert all(module.training for module in learner.model.modules())


def test_they_may_be_frozen_in_all_epochs():
    net, new = teacher()
    before = copy.deepcopy(net.state_dict())
    learner = Learner(net, Training(epochs=2, frozen=2), STEPS, CPU, new)
    train(learner, range(2 * STEPS))
    assert changed(before, learner.average.state_dict()) == {"fc.weight", "fc.bias"}


def test_a_net_of_two_classifiers_has_two_new_parts():
    assert classifiers(timm.create_model("deit_tiny_distilled_patch16_224")) == ("head", "head_dist")

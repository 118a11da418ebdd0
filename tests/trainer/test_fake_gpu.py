"""A GPU refuses operands on two devices. Fake tensors, which have a device and no values, show that without a GPU."""

from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer.arms import own_arm
from trainer.data import Rows, to_input
from trainer.data.inputs import _statistics
from trainer.data.reading import preprocessing_of
from trainer.logits import Form
from trainer.logits.form import Answers
from trainer.loop import Batch, _Targets
from trainer.losses import distillation, labels_alone, soft_cross_entropy
from trainer.models.student import create_student
from trainer.models.teacher import create_teacher
from trainer.recipe import DataRecipe, StudentRecipe, TeacherRecipe
from trainer.views import ExtraSpec, View, ViewSpec, enhance, render
from trainer.views.view import _beta_quantiles

GPU = torch.device("cuda:0")
BATCH, SIZE, CLASSES = 8, 32, 5
EVERYTHING = ViewSpec(scale=(0.5, 1.0), ratio=(0.8, 1.2), flip=0.5, operations=2, erase=0.3, mixup=0.8, cutmix=1.0)
PREPROCESSING = preprocessing_of(SIZE, DataRecipe())
SMALL = StudentRecipe(patch=8, width=32, depth=2, heads=2, drop_path=0.1)


@pytest.fixture
def fakes():
    """Give the mode in which tensors are fake. What was computed once in it is forgotten afterwards."""
    yield FakeTensorMode()
    for kept in (_beta_quantiles, _statistics):
        kept.cache_clear()


def on_gpu(net: nn.Module) -> nn.Module:
    """Replace the weights of a net by fake ones on a GPU."""
    for module in net.modules():
        for name, value in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(torch.empty(value.shape, device=GPU)))
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype, device=GPU))
    return net.train()


def numbers() -> torch.Tensor:
    return torch.zeros(BATCH, dtype=torch.int64, device=GPU)


def shown(spec: ViewSpec = EVERYTHING) -> View:
    images = torch.zeros(BATCH, SIZE, SIZE, 3, dtype=torch.uint8, device=GPU)
    return render(images, numbers(), seed=1, view=0, spec=spec)


def test_operands_on_two_devices_are_seen(fakes):
    with fakes, pytest.raises(RuntimeError, match="same device"):
        torch.zeros(2, device=GPU) + torch.zeros(2)


@pytest.mark.parametrize("operations", [0, 2])
def test_views(fakes, operations):
    with fakes:
        view = shown(replace(EVERYTHING, operations=operations))
        more = enhance(
            view.pixels, numbers(), seed=1, epoch=0, spec=ExtraSpec(brightness=0.2, saturation=0.2, erase=0.3)
        )
        assert view.pixels.device == view.own.device == more.device == GPU


def test_labels_of_uneven_classes(fakes):
    with fakes:
        targets_of = _Targets(torch.tensor([100, 20, 20, 3, 5], device=GPU), 0.1, "always")
        assert targets_of(Batch(Rows(*[numbers()] * 4), shown())).device == GPU


@pytest.mark.parametrize("kept_on", [GPU, torch.device("cpu")], ids=str)
@pytest.mark.parametrize("form", [Form(5, 0, "float16"), Form(5, 0, "int8"), Form(500, 20, "float16")], ids=str)
def test_stored_answers(fakes, form, kept_on):
    with fakes:
        parts = {name: torch.empty_like(part, device=kept_on) for name, part in form.empty(40, 2).items()}
        assert Answers(form, parts).at(numbers()).device == GPU


@pytest.mark.parametrize(
    "change",
    [
        *({"loss": loss, "standardize": standardize} for loss in ("kl", "dist") for standardize in (False, True)),
        *({"loss": loss} for loss in ("hard", "dkd")),
        *({"ensemble": ensemble} for ensemble in ("mean-prob", "mean-logit")),
        {"stem": "patch"},
        {"tokens": "stems"},
        {"model": "vit_tiny_patch16_224"},
    ],
    ids=str,
)
def test_a_student_and_what_it_learns(fakes, change, tiny_recipe):
    student = StudentRecipe(**change) if "model" in change else replace(SMALL, **change)
    net = create_student(student, 2, CLASSES, PREPROCESSING)
    teaching = own_arm(replace(tiny_recipe, student=student)).teaching()
    with fakes:
        logits = on_gpu(net)(to_input(shown().pixels, PREPROCESSING))
        targets, answers = torch.zeros(BATCH, CLASSES, device=GPU), torch.zeros(BATCH, 2, CLASSES, device=GPU)
        taught, alone = distillation(logits, targets, answers, teaching), labels_alone(logits, targets)
        assert {loss.device for loss in (*taught.values(), *alone.values())} == {GPU}


@pytest.mark.parametrize(
    ("model", "size"),
    [("resnet18_small", 64), ("rednet26_small_k3", SIZE), ("mixer_small", SIZE), ("tf_efficientnet_lite0", SIZE)],
)
def test_a_teacher_and_what_it_learns(fakes, model, size):
    teacher = create_teacher(TeacherRecipe(model=model, size=size), CLASSES, PREPROCESSING)
    with fakes:
        logits = teacher._replace(net=on_gpu(teacher.net)).answer(shown().pixels)
        assert soft_cross_entropy(logits, torch.zeros(BATCH, CLASSES, device=GPU)).device == GPU

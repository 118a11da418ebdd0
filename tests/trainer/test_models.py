"""The nets: published sizes, timm's registry, the student's tokens and heads."""

import pytest
import timm
import torch

from trainer.models import Student


def millions(model) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


@pytest.mark.parametrize(
    ("name", "published"),
    [("rednet26", 9.23), ("rednet38", 12.39), ("rednet50", 15.54), ("rednet101", 25.65), ("rednet152", 33.99)],
)
def test_rednet_has_its_published_size(name, published):
    with torch.device("meta"):
        assert millions(timm.create_model(name)) == pytest.approx(published, abs=0.006)


def test_rednet26_has_9233166_parameters_at_1000_classes():
    assert sum(p.numel() for p in timm.create_model("rednet26").parameters()) == 9_233_166


@pytest.mark.parametrize(("name", "expected"), [("rednet26_small_k3", 6.849), ("rednet26_small_k5", 6.991)])
def test_small_variants_keep_the_resolution(name, expected):
    model = timm.create_model(name, num_classes=10)
    assert millions(model) == pytest.approx(expected, abs=0.001)
    assert model.conv1(torch.randn(1, 3, 32, 32)).shape[-2:] == (32, 32)
    assert model.forward_features(torch.randn(2, 3, 32, 32)).shape[-2:] == (4, 4)


@pytest.mark.parametrize("name", ["rednet26", "rednet26_small_k3", "resnet18_small"])
def test_they_are_timm_models_like_any_other(name):
    assert timm.is_model(name)
    model = timm.create_model(name, num_classes=7, in_chans=1)
    assert model.num_classes == 7
    assert model.default_cfg["classifier"] == "fc"
    model.reset_classifier(0)
    assert model.eval()(torch.randn(2, 1, 32, 32)).shape == (2, model.num_features)


def make_student(**changes) -> Student:
    torch.manual_seed(0)
    shape = {"classes": 5, "teachers": 2, "size": 16, "patch": 4, "width": 32, "depth": 2, "heads": 2}
    return Student(**{**shape, **changes})


def test_evaluation_is_the_mean_of_the_heads_over_the_temperature():
    student = make_student(stem="patch")  # without batch norm, so that both modes see the same features
    x = torch.randn(3, 3, 16, 16)
    heads = student.train()(x)
    assert heads.shape == (3, 3, 5)
    student.temperature.fill_(2.0)
    torch.testing.assert_close(student.eval()(x), heads.mean(1) / 2)


def test_each_head_reads_a_token_of_its_own():
    student = make_student(stem="patch").train()
    x = torch.randn(2, 3, 16, 16)
    before = student(x)
    with torch.no_grad():
        student.trunk.blocks[-1].mlp.fc2.weight.zero_()  # nothing passes between tokens after the last attention
        for block in student.trunk.blocks:
            block.attn.proj.weight.zero_()
            block.attn.proj.bias.zero_()
    isolated = student(x)
    with torch.no_grad():
        student.trunk.reg_token[:, 1] += torch.randn(32)
    moved = (student(x) - isolated).abs().amax((0, 2))
    assert moved[2] > 1e-4
    assert moved[0] == 0
    assert moved[1] == 0
    assert before.shape == isolated.shape


@pytest.mark.parametrize(
    ("stem", "patch", "tokens"), [("patch", 4, 16), ("conv", 4, 16), ("conv", 8, 4), ("conv", 2, 64)]
)
def test_both_stems_give_a_token_for_each_patch(stem, patch, tokens):
    student = make_student(stem=stem, patch=patch)
    assert student.trunk.patch_embed.num_patches == tokens
    assert student.trunk.num_prefix_tokens == 3
    assert student.eval()(torch.randn(1, 3, 16, 16)).shape == (1, 5)


def test_the_student_of_the_cifar_recipe_has_its_published_size():
    # ViT 192 wide, 9 deep, MLP ratio 2, patch 4: 2.70 M parameters with one head at 100 classes
    plain = Student(classes=100, teachers=0, size=32, stem="patch", patch=4, width=192, depth=9, heads=3, mlp_ratio=2.0)
    assert millions(plain) == pytest.approx(2.70, abs=0.02)

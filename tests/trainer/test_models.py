"""The nets: published sizes, the registry of timm, the tokens and heads of the student."""

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2

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


@pytest.mark.parametrize(("name", "expected"), [("resnet18_small", 11.17), ("mixer_small", 2.48)])
def test_other_small_nets_have_their_documented_size(name, expected):
    assert millions(timm.create_model(name, num_classes=10)) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("name", ["rednet26", "rednet26_small_k3", "resnet18_small"])
def test_nets_of_this_package_are_timm_models_like_any_other(name):
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


def test_evaluation_is_the_mean_of_the_heads_divided_by_the_temperature():
    student = make_student(stem="patch")  # without batch norm, so that both modes see the same features
    x = torch.randn(3, 3, 16, 16)
    heads = student.train()(x)
    assert heads.shape == (3, 3, 5)
    student.temperature.fill_(2.0)
    torch.testing.assert_close(student.eval()(x), heads.mean(1) / 2)


def test_each_head_reads_its_own_token():
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


def test_stems_and_learned_tokens_have_nearly_equal_parameters():
    shape = {"classes": 100, "teachers": 2, "size": 32, "patch": 4, "width": 192, "depth": 9, "heads": 3}
    learned, stems = Student(**shape), Student(**shape, tokens="stems")
    assert millions(stems) == pytest.approx(millions(learned), rel=0.02)
    assert stems.trunk.patch_embed.num_patches == learned.trunk.patch_embed.num_patches == 64


@pytest.mark.parametrize(("size", "patch", "side"), [(16, 4, 4), (28, 8, 4), (30, 4, 8), (32, 2, 16)])
def test_stems_give_a_token_for_each_patch_and_each_part_of_a_patch(size, patch, side):
    student = make_student(tokens="stems", size=size, patch=patch).eval()
    assert student.trunk.patch_embed.grid_size == (side, side)
    conv, inv = student.trunk.patch_embed(torch.randn(2, 3, size, size))
    assert conv.shape == inv.shape == (2, side**2, 32)
    assert student(torch.randn(2, 3, size, size)).shape == (2, 5)


def test_the_mean_of_a_stem_is_added_to_its_bias_token():
    student = make_student(tokens="stems", teachers=3).eval()
    trunk = student.trunk
    x = torch.randn(2, 3, 16, 16)
    seen = []
    trunk.blocks.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    student(x)
    stems = trunk.patch_embed(x)
    place = trunk.pos_embed[0]
    for k, stem in enumerate(stems):
        expected = stem.mean(1) + trunk.reg_token[0, k] + place[1 + k]
        torch.testing.assert_close(seen[0][:, 1 + k], expected)
    torch.testing.assert_close(seen[0][:, 3], (trunk.reg_token[0, 2] + place[3]).expand(2, -1))  # the third is learned
    torch.testing.assert_close(seen[0][:, 4:], stems[0] + stems[1] + place[4:])


def test_stems_need_two_bias_tokens():
    with pytest.raises(ValueError, match="for 2 teachers or more, not 1"):
        make_student(tokens="stems", teachers=1)


@pytest.mark.parametrize("tokens", ["learned", "stems"])
def test_tokens_and_positions_do_not_decay(tokens):
    student = make_student(tokens=tokens)
    groups = create_optimizer_v2(student, opt="adamw", lr=1e-3, weight_decay=0.05).param_groups
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    for name, parameter in student.named_parameters():
        is_place = name in {"trunk.cls_token", "trunk.reg_token", "trunk.pos_embed"}
        assert (id(parameter) in decayed) == (parameter.ndim > 1 and not is_place), name


def test_stems_can_be_exported():
    student = make_student(tokens="stems").eval()
    x = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(torch.export.export(student, (x,)).module()(x), student(x))

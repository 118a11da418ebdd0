"""Involution against the definition of its paper, written with unfold."""

import pytest
import torch
import torch.nn.functional as F

from trainer.models import Involution, involution


def by_unfolding(x, weight, stride):
    """The definition: every K x K neighbourhood laid out, weighed, summed."""
    batch, channels = x.shape[:2]
    groups, kernel = weight.shape[1], round(weight.shape[2] ** 0.5)
    columns = F.unfold(x, kernel, padding=kernel // 2, stride=stride)
    columns = columns.view(batch, groups, channels // groups, kernel**2, *weight.shape[-2:])
    return (weight.unsqueeze(2) * columns).sum(3).flatten(1, 2)


def operands(kernel, stride, size=(9, 7), groups=2, channels=6, requires_grad=True):
    torch.manual_seed(0)
    out = [-(-side // stride) for side in size]
    x = torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=requires_grad)
    weight = torch.randn(2, groups, kernel**2, *out, dtype=torch.float64, requires_grad=requires_grad)
    return x, weight


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_forward_and_both_gradients_equal_the_definition(kernel, stride):
    x, weight = operands(kernel, stride)
    ours, theirs = involution(x, weight, stride), by_unfolding(x, weight, stride)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    towards = torch.randn_like(ours)
    for ours_grad, theirs_grad in zip(
        torch.autograd.grad(ours, (x, weight), towards), torch.autograd.grad(theirs, (x, weight), towards), strict=True
    ):
        torch.testing.assert_close(ours_grad, theirs_grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_are_those_of_finite_differences(stride):
    x, weight = operands(3, stride, size=(5, 4))
    assert torch.autograd.gradcheck(lambda x, weight: involution(x, weight, stride), (x, weight))


def test_without_gradients_the_answer_is_the_same():
    x, weight = operands(3, 2)
    with torch.no_grad():
        assert torch.equal(involution(x, weight, 2), involution(x.detach(), weight.detach(), 2))
    torch.testing.assert_close(involution(x, weight, 2).detach(), involution(x.detach(), weight.detach(), 2))


def test_a_channel_never_sees_another_one():
    layer = Involution(32, kernel_size=3).eval()
    x = torch.randn(1, 32, 6, 6)
    kernels = layer.span(layer.act(layer.norm(layer.reduce(x)))).unflatten(1, (layer.groups, -1))
    changed = x.clone()
    changed[:, 5] += 1
    difference = involution(changed, kernels) - involution(x, kernels)
    assert difference[:, 5].abs().max() > 0
    assert difference[:, :5].abs().max() == 0
    assert difference[:, 6:].abs().max() == 0


@pytest.mark.parametrize(("size", "stride"), [(8, 2), (7, 2), (7, 1)])
def test_a_stride_halves_the_picture_rounding_up(size, stride):
    assert Involution(16, 3, stride)(torch.randn(2, 16, size, size)).shape[-2:] == (-(-size // stride),) * 2


def test_it_can_be_exported():
    layer = Involution(16, kernel_size=3, stride=2).eval()
    x = torch.randn(1, 16, 8, 8)
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x), layer(x))


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match="multiple of 16"):
        Involution(24)
    with pytest.raises(ValueError, match="odd"):
        Involution(16, kernel_size=4)

"""Involution against the definition in its paper, written with unfold: on a CPU, a GPU, and in Triton's interpreter.

Run as a program with TRITON_INTERPRET=1, this file checks the kernels without a GPU.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import product

import pytest
import timm
import torch
import torch.nn.functional as F

from trainer.models import Involution, involution
from trainer.models.involution import ELEMENTS_PER_CORE

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
DEVICES = ["cpu", pytest.param("cuda", marks=on_a_gpu)]
# Shares of the largest element: the rounding of a sum of 49 products; for the 16-bit types only that of the result.
TOLERANCES = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}


def by_unfolding(x, weight, stride):
    """Compute the definition: unfold every K x K neighbourhood, weight it, and sum."""
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


def channels_first(x, weight):
    return x, weight


def channels_last(x, weight):
    """Return the same values in the memory layout in which convolutions return them."""
    groups = weight.shape[1]
    x, weight = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, weight.flatten(1, 2)))
    return x, weight.unflatten(1, (groups, -1))


def answer_and_gradients(operation, x, weight, stride, towards):
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    answer = operation(x, weight, stride)
    return answer.detach(), *torch.autograd.grad(answer, (x, weight), towards)


def compare_with_the_definition(operation, x, weight, stride):
    """Compare the output and the gradients, in the dtype of the operands, with the definition in float64."""
    towards = torch.randn_like(by_unfolding(x.detach(), weight.detach(), stride))
    expected = answer_and_gradients(
        by_unfolding, *(operand.double() for operand in (x, weight)), stride, towards.double()
    )
    for ours, theirs in zip(answer_and_gradients(operation, x, weight, stride, towards), expected, strict=True):
        tolerance = TOLERANCES[x.dtype] * theirs.abs().max().item()
        assert ours.dtype == x.dtype
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", [channels_first, channels_last])
@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_forward_and_both_gradients_equal_the_definition(device, layout, kernel, stride):
    x, weight = layout(*operands(kernel, stride))
    compare_with_the_definition(involution, x.to(device), weight.to(device), stride)


@on_a_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_on_a_gpu_16_bit_types_lose_only_their_own_rounding(dtype, stride):
    x, weight = channels_last(*operands(7, stride, size=(29, 31), groups=3, channels=48))
    compare_with_the_definition(involution, x.to("cuda", dtype), weight.to("cuda", dtype), stride)


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
@pytest.mark.long
@pytest.mark.slow
def test_the_kernels_equal_the_definition_in_the_interpreter_of_triton():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, __file__], env=environment, check=True)


def test_a_batch_that_is_processed_in_parts_equals_the_definition(one_thread):
    x, weight = torch.randn(5, 16, 64, 128, dtype=torch.float64), torch.randn(5, 1, 9, 64, 128, dtype=torch.float64)
    assert x.numel() > 2 * ELEMENTS_PER_CORE >= 4 * x[0].numel()  # two at a time, then one
    compare_with_the_definition(involution, x, weight, 1)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_equal_finite_differences(stride):
    x, weight = operands(3, stride, size=(5, 4))
    assert torch.autograd.gradcheck(lambda x, weight: involution(x, weight, stride), (x, weight))


def test_the_output_is_the_same_without_gradients():
    x, weight = operands(3, 2)
    with torch.no_grad():
        assert torch.equal(involution(x, weight, 2), involution(x.detach(), weight.detach(), 2))
    torch.testing.assert_close(involution(x, weight, 2).detach(), involution(x.detach(), weight.detach(), 2))


def test_an_output_channel_depends_on_its_own_input_channel_only():
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
def test_a_stride_divides_the_size_rounding_up(size, stride):
    assert Involution(16, 3, stride)(torch.randn(2, 16, size, size)).shape[-2:] == (-(-size // stride),) * 2


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_exported_involution_answers_the_same_for_any_batch(kernel, stride):
    torch.manual_seed(0)
    layer, x = Involution(32, kernel, stride).eval(), torch.randn(3, 32, 9, 7)
    exported = torch.export.export(layer, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    with torch.no_grad():
        found, expected = exported(x), layer(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCES[x.dtype] * expected.abs().max().item())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_traced_involution_answers_the_same():  # openvino.convert_model traces a module, which makes sizes tensors
    torch.manual_seed(0)
    module, x = Involution(16, 3, 2).eval(), torch.randn(2, 16, 9, 9)
    assert torch.equal(torch.jit.trace(module, x)(x), module(x))


@pytest.mark.slow
def test_an_exported_rednet_has_few_operators():
    net = timm.create_model("rednet26", num_classes=20).eval()
    program = torch.export.export(net, (torch.randn(1, 3, 64, 64),))
    assert len(program.graph.find_nodes(op="call_function", target=torch.ops.aten.slice.Tensor)) < 300
    assert (
        sum(node.op == "call_function" for node in program.graph.nodes) < 600
    )  # more than 2,000 if shifts are unrolled


def test_compiled_involution_gives_the_same_gradients():
    layer = Involution(16, kernel_size=3, stride=2)
    x = torch.randn(2, 16, 7, 8, requires_grad=True)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(*(torch.autograd.grad(net(x).square().sum(), x) for net in (compiled, layer)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match="multiple of 16"):
        Involution(24)
    with pytest.raises(ValueError, match="odd"):
        Involution(16, kernel_size=4)
    x, weight = operands(3, 2)
    for other_x, other_weight, stride in [(x, weight, 1), (x[:1], weight, 2), (x[:, :5], weight, 2)]:
        with pytest.raises(ValueError, match="does not fit"):
            involution(other_x, other_weight, stride)


def check_the_kernels():
    """Compare each kernel with the definition in the interpreter of Triton, and run the operator checks of torch."""
    from trainer.models.involution_triton import fused_gradients, fused_involution

    # A group has 12 channels in a tile of 16, and 72 places in tiles of 64, so both ends are masked.
    tiles = {"size": (9, 8), "groups": 2, "channels": 24}
    one_tile = {"size": (5, 7), "groups": 1, "channels": 12}
    hows = [(torch.float32, channels_last), (torch.bfloat16, channels_first)]  # all four would double the time
    cases = [(*shape, *how) for shape, how in product(product((3, 5, 7), (1, 2)), hows)]
    special = [
        (1, 1, torch.float32, channels_last),
        (3, 2, torch.float64, channels_last),
        (3, 3, torch.float16, channels_last),
    ]
    for kernel, stride, dtype, layout in (*cases, *special):
        x, weight = layout(*operands(kernel, stride, **(tiles if kernel == 3 else one_tile)))
        compare_with_the_definition(fused_involution, x.to(dtype), weight.to(dtype), stride)

    x, weight = channels_last(*operands(3, 2, size=(5, 4)))
    torch.library.opcheck(fused_involution, (x.detach().requires_grad_(), weight.detach().requires_grad_(), 2))
    grad = torch.randn(2, 6, 3, 2, dtype=torch.float64)
    torch.library.opcheck(fused_gradients, (grad, x.detach(), weight.detach(), 2))


if __name__ == "__main__":
    check_the_kernels()

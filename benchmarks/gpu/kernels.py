"""A section of probe.py: involution and the views on this device, compared with the CPU's."""

from __future__ import annotations

import torch
from torch import Tensor
from workbench import Workbench, first_of, say

from trainer.models import involution
from trainer.views import render


def kernels(bench: Workbench) -> None:
    """Compare involution and the views on this device with those on the CPU."""
    for stride in (1, 2):
        for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
            errors = _involution_errors(stride, dtype, bench.device)
            say(f"   involution, stride {stride}, {dtype}: relative errors", ", ".join(f"{e:.1e}" for e in errors))
            if not max(errors) < limit:
                raise AssertionError("the kernels are wrong")
    _involution_speed(bench)
    few = first_of(bench.data.train, 512)
    here, there = (
        render(few.pixels().to(where), few.ids.to(where), seed=0, view=0, spec=bench.recipe.views.spec).pixels.cpu()
        for where in (bench.device, torch.device("cpu"))
    )
    bench.figures["views_apart"] = (here - there).abs().max().item()
    say(f"   views: at most {bench.figures['views_apart']:.1e} from the CPU's")


def _involution_speed(bench: Workbench) -> None:
    """Time involution as in a layer of the first stage, and count the bytes that it has to move: each operand once."""
    images = bench.batch if bench.on_gpu else 4
    size = bench.data.preprocessing.input.height
    x = torch.randn(images, 64, size, size, device=bench.device, dtype=torch.bfloat16)
    w = torch.randn(images, 36, size, size, device=bench.device, dtype=torch.bfloat16)
    x, w = (it.contiguous(memory_format=torch.channels_last).requires_grad_() for it in (x, w))
    grad = torch.randn_like(x)

    def forward(_: int) -> Tensor:
        return involution(x, w.unflatten(1, (4, -1)), 1)

    def both(number: int) -> None:
        torch.autograd.grad(forward(number), (x, w), grad)

    for name, step, moved in (
        ("involution", forward, 2 * x.nbytes + w.nbytes),
        ("involution and gradients", both, 5 * x.nbytes + 3 * w.nbytes),
    ):
        ms = bench.figures[f"{name}_ms"] = bench.milliseconds(step, 10)
        share = bench.figures[f"{name}_share_of_copy"] = moved / (ms / 1000) / bench.figures["copy_bytes_per_s"]
        say(f"   {name}, {images} x 64 x {size} x {size}: {ms:.2f} ms, {share:.0%} of the copy's rate")


def _involution_errors(stride: int, dtype: torch.dtype, device: torch.device) -> list[float]:
    """Return the relative errors of the output and of both gradients, compared with float64 on the CPU."""
    torch.manual_seed(0)
    x = torch.randn(4, 64, 16, 16).to(dtype).contiguous(memory_format=torch.channels_last)
    w = torch.randn(4, 36, 16 // stride, 16 // stride).to(dtype).contiguous(memory_format=torch.channels_last)
    g = torch.randn(4, 64, 16 // stride, 16 // stride).to(dtype)
    found = []
    for where, kind in ((device, dtype), (torch.device("cpu"), torch.float64)):
        a, b = x.to(where, kind).requires_grad_(), w.to(where, kind).requires_grad_()
        y = involution(a, b.unflatten(1, (4, -1)), stride)
        found.append([it.double().cpu() for it in (y.detach(), *torch.autograd.grad(y, (a, b), g.to(where, kind)))])
    return [((ours - right).norm() / right.norm()).item() for ours, right in zip(*found, strict=True)]

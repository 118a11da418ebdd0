"""Compare involution with its definition by unfold: seconds and peak memory of one forward and backward pass.

    python benchmarks/involution.py [--batch 8 32] [--threads 1] [--device cuda --dtype bfloat16] [--json]

Expected, with kernel 7 on 56 x 56 x 64: a peak of at most 1/5 of unfold's, in less time than unfold. On a GPU the
program also times two other ways, `shifts` and `compiled unfold`: `involution` should be faster than both.

In each round every way is timed once, so that other work on the machine affects all of them alike. The table has
medians over the rounds and, in brackets, their ratio to unfold's. Memory is what a pass needs in addition to its
operands: on a CPU the growth of the largest resident size of a process that does nothing else, on a GPU the
allocator's peak.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models import involution
from trainer.models.involution import _Involution

Way = Callable[[Tensor, Tensor, int], Tensor]
MIB = 2**20


class Shape(NamedTuple):
    size: int
    channels: int
    kernel: int

    def __str__(self) -> str:
        return f"{self.size} x {self.size} x {self.channels}, kernel {self.kernel}"


SHAPES = [Shape(56, 64, 7), Shape(14, 256, 7), Shape(32, 64, 3)]
GROUP_CHANNELS = 16


def by_unfolding(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    groups, kernel = weight.shape[1], round(weight.shape[2] ** 0.5)
    columns = F.unfold(x, kernel, padding=kernel // 2, stride=stride)
    columns = columns.view(len(x), groups, -1, kernel**2, *weight.shape[-2:])
    return (weight.unsqueeze(2) * columns).sum(3).flatten(1, 2)


def ways(device: str) -> dict[str, Way]:
    everywhere: dict[str, Way] = {"unfold": by_unfolding, "involution": involution}
    if device == "cpu":
        return everywhere
    return {**everywhere, "shifts": _Involution.apply, "compiled unfold": torch.compile(by_unfolding, dynamic=False)}


def operands(shape: Shape, batch: int, options: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, weight and the gradient of the output, in the memory layout in which convolutions leave them."""
    torch.manual_seed(0)
    groups = shape.channels // GROUP_CHANNELS
    layout = torch.contiguous_format if options.channels_first else torch.channels_last
    x, weight, grad = (
        torch.randn(batch, channels, shape.size, shape.size, device=options.device)
        .to(getattr(torch, options.dtype))
        .contiguous(memory_format=layout)
        for channels in (shape.channels, groups * shape.kernel**2, shape.channels)
    )
    return x.requires_grad_(), weight.unflatten(1, (groups, -1)).requires_grad_(), grad


def forward_and_backward(way: Way, x: Tensor, weight: Tensor, grad: Tensor) -> None:
    torch.autograd.grad(way(x, weight, 1), (x, weight), grad)


def seconds(way: Way, x: Tensor, weight: Tensor, grad: Tensor) -> float:
    started = time.perf_counter()
    forward_and_backward(way, x, weight, grad)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def median_seconds(shape: Shape, batch: int, options: argparse.Namespace) -> dict[str, float]:
    tensors, taken = operands(shape, batch, options), ways(options.device)
    for way in taken.values():
        seconds(way, *tensors)
    rounds = [{name: seconds(way, *tensors) for name, way in taken.items()} for _ in range(options.rounds)]
    return {name: statistics.median(each[name] for each in rounds) for name in taken}


def peak_bytes(name: str, shape: Shape, batch: int, options: argparse.Namespace) -> int:
    """Return the memory that one pass needs in addition to its operands."""
    torch.set_num_threads(options.threads)
    way = ways(options.device)[name]
    # A first, small pass loads and compiles everything that is loaded or compiled only once.
    forward_and_backward(way, *operands(Shape(8, GROUP_CHANNELS, shape.kernel), 1, options))
    tensors = operands(shape, batch, options)
    if options.device == "cpu":
        before = largest_resident_bytes()
        forward_and_backward(way, *tensors)
        return largest_resident_bytes() - before
    forward_and_backward(way, *tensors)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    forward_and_backward(way, *tensors)
    return torch.cuda.max_memory_allocated() - before


def largest_resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_memory(shape: Shape, batch: int, options: argparse.Namespace) -> dict[str, int]:
    """Return the peak memory of each way. Each has its own process, as the largest resident size never shrinks."""
    peaks = {}
    for name in ways(options.device):
        with multiprocessing.get_context("spawn").Pool(1) as process:
            peaks[name] = process.apply(peak_bytes, (name, shape, batch, options))
    return peaks


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    cases = [(shape, batch) for shape in SHAPES for batch in options.batch]
    # Memory comes first: on Linux a new process inherits the largest resident size of the process that started it.
    peaks = [peak_memory(shape, batch, options) for shape, batch in cases]
    times = [median_seconds(shape, batch, options) for shape, batch in cases]
    return [
        {
            **shape._asdict(),
            "batch": batch,
            "way": name,
            "seconds": taken[name],
            "seconds_to_unfold": taken[name] / taken["unfold"],
            "peak_bytes": peak[name],
            "peak_to_unfold": peak[name] / peak["unfold"],
        }
        for (shape, batch), peak, taken in zip(cases, peaks, times, strict=True)
        for name in taken
    ]


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'places x channels':28}{'batch':>6}  {'way':16}{'forward + backward':>22}{'peak memory':>22}")
    for row in rows:
        shape = Shape(row["size"], row["channels"], row["kernel"])
        taken = f"{1000 * row['seconds']:.2f} ms ({row['seconds_to_unfold']:.3f})"
        peak = f"{row['peak_bytes'] / MIB:.1f} MiB ({row['peak_to_unfold']:.3f})"
        print(f"{shape!s:28}{row['batch']:>6}  {row['way']:16}{taken:>22}{peak:>22}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32], help="images in a batch; one or more sizes")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16", "float64"], default="float32")
    parser.add_argument("--channels-first", action="store_true", help="use the other memory layout than in training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="number of CPU threads")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print the rows and the settings as JSON")
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    return options


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    rows = measure(options)
    if options.json:
        print(json.dumps({"torch": torch.__version__, **vars(options), "rows": rows}, indent=2))
    else:
        show(rows)


if __name__ == "__main__":
    main()

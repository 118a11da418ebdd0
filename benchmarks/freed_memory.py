"""Measure the steps of the demo's nets with the usual memory of torch, and with ours, which keeps what a step frees.

    python benchmarks/freed_memory.py [--rounds 5] [--batch 64]

Each process takes steps of one net with one thread for some seconds. Those of the two ways take turns, and the median
of their medians counts. The pages are those that the system had to clear for a step, 4 KiB each or 2 MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext

STEPS, WARM_UP = 30, 5
NETS, WAYS = ("conv", "involution", "student"), ("usual", "kept")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        net, way = arguments.child
        print(json.dumps(measured(net, way, arguments.batch)))
        return
    for net in NETS:
        rounds = [[asked(net, way, arguments.batch) for way in WAYS] for _ in range(arguments.rounds)]
        (usual, pages, peak), (kept, few, higher) = (
            [statistics.median(values) for values in zip(*of_one_way, strict=True)]
            for of_one_way in zip(*rounds, strict=True)
        )
        print(
            f"{net:10} {usual:4.0f} ms, {pages:6,.0f} pages, {peak:,.0f} MB; kept: {kept:4.0f} ms, {few:4,.0f} pages, "
            f"{higher:,.0f} MB; {usual / kept:.2f} times as fast"
        )


def asked(net: str, way: str, batch: int) -> list[float]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "THP_"))}
    plain = {"THP_MEM_ALLOC_ENABLE": "0"} if way == "usual" else {}
    command = [sys.executable, __file__, "--batch", str(batch), "--child", net, way]
    return json.loads(subprocess.run(command, env=clean | plain, capture_output=True, check=True).stdout)


def measured(net: str, way: str, batch: int) -> list[float]:
    """Return the median milliseconds of a step, its new pages, and the most memory in MB."""
    import trainer  # noqa: F401  (it asks for large pages, before torch is imported)
    import torch  # isort: skip

    from trainer.data import Preprocessing
    from trainer.memory import keeping_freed_memory
    from trainer.models import create_student, create_teacher
    from trainer.recipe import read_recipe

    torch.set_num_threads(1)
    recipe, shape = read_recipe("demo"), Preprocessing.square(28)
    if net == "student":
        model: torch.nn.Module = create_student(recipe.student, 2, 10, shape)
    else:
        model = create_teacher(recipe.teachers[net], 10, shape).net
    optimizer, images = torch.optim.AdamW(model.parameters()), torch.randn(batch, 3, 28, 28)
    with keeping_freed_memory() if way == "kept" else nullcontext():
        seconds: list[float] = []
        for step in range(WARM_UP + STEPS):
            if step == WARM_UP:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            started = time.perf_counter()
            model(images).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - started)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return [1000 * statistics.median(seconds[WARM_UP:]), (used.ru_minflt - before) / STEPS, used.ru_maxrss / 1000]


if __name__ == "__main__":
    main()

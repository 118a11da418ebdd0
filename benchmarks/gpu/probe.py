"""Time what a card does with a recipe, part by part, in three minutes, and reckon what a longer job can afford.

    python benchmarks/gpu/probe.py --recipe RECIPE --out OUT --deadline EPOCH_SECONDS [--few N] [--rounds N] ARCHIVE...

Prints as it goes, and leaves OUT/probe.json, OUT/profile.txt and $LIBKD/suggestion.env, which job.py reads from its
environment. A fault in one section is told, and the next one runs. On a CPU it does the same, smaller.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace as with_
from functools import partial
from pathlib import Path

import torch
from msgspec.structs import replace
from torch import Tensor
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler
from workbench import Workbench, say

from trainer.budget import cut
from trainer.data import Split, load
from trainer.device import arithmetic
from trainer.logits import teachers_rate
from trainer.models import involution
from trainer.pipeline import train_arm
from trainer.progress import Silent
from trainer.recipe import Recipe, read_recipe
from trainer.run import Run, Source, pick_device, start_run
from trainer.train import own_arm, plain_arm
from trainer.views import render

SCRATCH = Path(os.environ.get("LIBKD", "libkd-scratch"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--deadline", type=float, default=time.time() + 170, help="seconds since 1970")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--few", type=int, default=4096, help="pictures of the first, whole run")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.5, help="of the job's pictures, that are given here")
    parser.add_argument("data", nargs="+")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True
    options.out.mkdir(parents=True, exist_ok=True)
    SCRATCH.mkdir(parents=True, exist_ok=True)

    recipe, device = read_recipe(options.recipe), pick_device(options.device)
    started = time.perf_counter()
    data = load(options.data, recipe.data)
    data = with_(data, validation=_first(data.validation, 1000))
    bench = Workbench(recipe, data, device, options.rounds, options.out)
    bench.figures["load_s"] = time.perf_counter() - started
    sizes = " + ".join(f"{len(split):,}" for split in (data.train, data.validation, data.test))
    say(f"{sizes} pictures in {bench.figures['load_s']:.1f} s")
    sections = {
        "ceilings": ceilings,
        "kernels": kernels,
        "whole path": partial(whole_path, few=options.few, source=Source(tuple(options.data))),
        "rendering": rendering,
        "steps": steps,
        "filling": filling,
        "checkpoints": checkpoints,
        "waits": waits,
        "affordable": partial(affordable, share=options.share),
        "tables": tables,
        "variants": variants,
    }
    faults = run_sections(bench, sections, options.deadline)
    say("FAULTS IN " + ", ".join(faults) if faults else "no faults")
    return 1 if faults else 0


def run_sections(bench: Workbench, sections: Mapping[str, Callable[[Workbench], None]], deadline: float) -> list[str]:
    """Run each for which there is time, after a fault too, and return the names of those that had one."""
    faults = []
    for name, section in sections.items():
        if time.time() > deadline:
            say(f"-- {name}: left out, no time")
            continue
        say(f"-- {name}")
        try:
            section(bench)
        except Exception:  # whatever it is: the card is lent for minutes, and the other sections have to run
            faults.append(name)
            traceback.print_exc(file=sys.stdout)
        (bench.out / "probe.json").write_text(json.dumps(bench.figures, indent=1) + "\n")
    return faults


def _first(split: Split, count: int) -> Split:
    return split.take(torch.arange(min(count, len(split))))


# The sections, in order


def ceilings(bench: Workbench) -> None:
    """Measure the largest rates that anything reaches here, by a large product and copy, and the cost of a launch."""
    size, copied = (8192, 2**30) if bench.on_gpu else (1024, 2**26)
    short = arithmetic(bench.recipe.student.training.precision, bench.device) == "bf16"
    one, other = (
        torch.randn(size, size, device=bench.device, dtype=torch.bfloat16 if short else torch.float32) for _ in range(2)
    )
    ms = bench.milliseconds(lambda _: one @ other, 10)
    source = torch.ones(copied, dtype=torch.uint8, device=bench.device)
    target, tiny = torch.empty_like(source), torch.zeros(512, device=bench.device)
    copy = bench.milliseconds(lambda _: target.copy_(source), 10)
    small = bench.milliseconds(lambda _: [tiny.add_(1) for _ in range(200)], 10)
    bench.figures |= {
        "peak_flops": 2 * size**3 / ms * 1000,
        "copy_bytes_per_s": 2 * copied / copy * 1000,
        "launch_us": small * 1000 / 200,
    }
    say(
        f"   {one.dtype} product {bench.figures['peak_flops'] / 1e12:.3g} TFLOP/s, copy "
        f"{bench.figures['copy_bytes_per_s'] / 1e12:.3g} TB/s, a small operation {bench.figures['launch_us']:.1f} us"
    )


def kernels(bench: Workbench) -> None:
    """Compare involution and the views on this device with the CPU's."""
    for stride in (1, 2):
        for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
            errors = _involution_errors(stride, dtype, bench.device)
            say(f"   involution, stride {stride}, {dtype}: relative errors", ", ".join(f"{e:.1e}" for e in errors))
            if not max(errors) < limit:
                raise AssertionError("the kernels are wrong")
    _involution_speed(bench)
    few = _first(bench.data.train, 512)
    here, there = (
        render(few.pixels().to(where), few.ids.to(where), seed=0, view=0, spec=bench.recipe.views.spec).pixels.cpu()
        for where in (bench.device, torch.device("cpu"))
    )
    bench.figures["views_apart"] = (here - there).abs().max().item()
    say(f"   views: at most {bench.figures['views_apart']:.1e} from the CPU's")


def _involution_speed(bench: Workbench) -> None:
    """Time it at a layer of the first stage, and count the bytes that it cannot help moving: each operand once."""
    pictures = bench.batch if bench.on_gpu else 4
    size = bench.data.preprocessing.input.height
    x = torch.randn(pictures, 64, size, size, device=bench.device, dtype=torch.bfloat16)
    w = torch.randn(pictures, 36, size, size, device=bench.device, dtype=torch.bfloat16)
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
        say(f"   {name}, {pictures} x 64 x {size} x {size}: {ms:.2f} ms, {share:.0%} of the copy's rate")


def _involution_errors(stride: int, dtype: torch.dtype, device: torch.device) -> list[float]:
    """Return the relative errors of the answer and both gradients, to float64 on the CPU."""
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


def whole_path(bench: Workbench, few: int, source: Source) -> None:
    """Teach, store, distil, judge on a few pictures: what is broken shows here, and what is compiled stays cached."""
    data = with_(
        bench.data,
        train=_first(bench.data.train, few),
        validation=_first(bench.data.validation, 256),
        test=_first(bench.data.test, 512),
    )
    recipe = bench.recipe
    short = replace(
        recipe,
        views=replace(recipe.views, count=2),
        teachers={name: replace(it, training=replace(it.training, epochs=1)) for name, it in recipe.teachers.items()},
        student=replace(recipe.student, training=replace(recipe.student.training, epochs=2, warmup=1.0)),
    )
    folder = SCRATCH / "whole-path"
    shutil.rmtree(folder, ignore_errors=True)
    run = start_run(folder, short, data, source)
    stages = [(f"teachers/{name}", partial(train_teacher, run, name, data)) for name in short.teachers]
    stages += [(arm.stage, partial(train_arm, run, data, arm)) for arm in (own_arm(run), plain_arm(run))]
    for stage, work in stages:
        started = time.perf_counter()
        work(bench.device, Silent())
        top1 = run.config(stage)["results"]["test"]["top1"]
        say(f"   {stage}: {time.perf_counter() - started:.1f} s, compiling included; top-1 {top1:.1%}")


def rendering(bench: Workbench) -> None:
    """Time the views of a batch, and of as many batches as a GPU renders at once."""
    specs = {"student": bench.recipe.views.spec, **{name: it.views for name, it in bench.recipe.teachers.items()}}
    for name, spec in specs.items():
        for pictures in sorted({min(bench.batch * many, len(bench.train)) for many in (1, 16)}):
            images, ids = bench.train.pixels()[:pictures], bench.train.ids[:pictures]
            step = partial(_render, images, ids, spec)
            bench.note(f"views {name} {pictures}", step, pictures, rounds=10)


def _render(images: Tensor, ids: Tensor, spec: object, number: int) -> None:
    render(images, ids, seed=0, view=number, spec=spec)


def steps(bench: Workbench) -> None:
    """Time a step of every net, and the student's without teachers."""
    nets = {name: (teacher.net, teacher.preprocessing) for name, teacher in bench.teachers.items()}
    nets["student"] = (bench.student(), bench.data.preprocessing)
    operations = {name: bench.operations(*net) for name, net in nets.items()}
    for name, (step, _) in bench.as_in_the_recipe().items():
        bench.note(f"step {name}", step, bench.batch, operations[name])
    plain, _ = bench.student_step(bench.recipe.student.training.compile, taught=False)
    bench.note("step student, untaught", plain, bench.batch, operations["student"])
    ratio = bench.figures["step student_ms"] / bench.figures["step student, untaught_ms"]
    bench.figures["stored / plain"] = ratio
    say(f"   a step with stored teachers takes {ratio:.2f} of one without")


def filling(bench: Workbench) -> None:
    """Time views that are rendered and answered by all teachers."""
    operations = sum(bench.operations(it.net, it.preprocessing, backward=False) for it in bench.teachers.values())
    for teacher in bench.teachers.values():
        teacher.net.eval()
    rate = bench.figures["fill_per_s"] = teachers_rate(bench.teachers, bench.train, bench.recipe.views.spec)
    share = bench.figures["fill_share_of_peak"] = rate * operations / bench.figures["peak_flops"]
    say(f"   {rate:,.0f} pictures a second, by {len(bench.teachers)} teachers, {share:.1%} of the peak")


def checkpoints(bench: Workbench) -> None:
    """Time how a net's progress is kept."""
    for name, (step, learner) in bench.as_in_the_recipe().items():
        step(0)
        path = SCRATCH / f"{name}.safetensors"
        bench.figures[f"checkpoint {name}_ms"] = bench.milliseconds(lambda _, it=learner, at=path: it.save(at, 1), 5, 1)
        say(f"   of {name}: {bench.figures[f'checkpoint {name}_ms']:.0f} ms")
        path.unlink(missing_ok=True)


def waits(bench: Workbench) -> None:
    """Find where a step waits for the device: each such line costs the queue."""
    if not bench.on_gpu:
        say("   a CPU has no queue")
        return
    for name, (step, _) in bench.as_in_the_recipe().items():
        step(0)
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            step(1)
        torch.cuda.set_sync_debug_mode("default")
        lines = [f"{Path(it.filename).name}:{it.lineno}" for it in found if "called a synchronizing" in str(it.message)]
        bench.figures[f"waits {name}"] = len(lines)
        say(f"   {name}: {len(lines)} a step", *sorted(set(lines)))


def affordable(bench: Workbench, share: float) -> None:
    """Reckon the epochs and views of the recipe for which job.py has time."""
    seconds = float(os.environ.get("SECONDS_FOR_MAIN", "510")) - 50  # to start, to decode, to be sure

    class Told(Silent):
        def tell(self, text: str) -> None:
            say("  ", text)

    def arms(recipe: Recipe) -> list:
        run = Run(Path(), recipe)
        return [own_arm(run), plain_arm(run)]

    fitting = cut(bench.recipe, bench.data, seconds * share, bench.device, Told(), arms=arms)
    lines = {
        "TEACHER_EPOCHS": min(it.training.epochs for it in fitting.teachers.values()),
        "STUDENT_EPOCHS": fitting.student.training.epochs,
        "VIEWS": fitting.views.count,
    }
    (SCRATCH / "suggestion.env").write_text("".join(f"{name}=${{{name}:-{value}}}\n" for name, value in lines.items()))
    say("  ", *(f"{name}={value}" for name, value in lines.items()))


def tables(bench: Workbench) -> None:
    """Write the profiler's tables, by the device's time and by the host's, and count how busy the device is."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.on_gpu else [])]
    images, ids = bench.train.pixels()[: bench.batch], bench.train.ids[: bench.batch]
    work = {"views": partial(_render, images, ids, bench.recipe.views.spec)}
    work |= {name: step for name, (step, _) in bench.as_in_the_recipe().items()}
    with (bench.out / "profile.txt").open("w") as file:
        for name, step in work.items():
            for number in range(3):
                step(number)
            bench.wait()
            with profiler(activities=activities) as seen:
                for number in range(3):
                    step(number)
                bench.wait()
            averages = seen.key_averages()
            for by in ("self_cuda_time_total", "self_cpu_time_total")[0 if bench.on_gpu else 1 :]:
                table = averages.table(sort_by=by, row_limit=25, max_name_column_width=70)
                print(f"===== {name}, three steps, by {by}\n{table}", file=file)
            if bench.on_gpu:
                launches = sum(event.count for event in averages if "LaunchKernel" in event.key) / 3
                # Kernels alone: operators, and the names that torch gives to regions, count the same time again.
                ran = [it for it in averages if it.device_type.name == "CUDA" and not it.is_user_annotation]
                busy = sum(it.self_device_time_total for it in ran) / 3000
                bench.figures |= {f"launches {name}": launches, f"busy {name}_ms": busy}
                say(f"   {name}: {launches:.0f} launches, the device busy for {busy:.2f} ms of a step")


def variants(bench: Workbench) -> None:
    """Time what the recipe does not do: the other one of compiled and eager, and CUDA graphs."""
    if not bench.on_gpu:
        say("   to compile for a CPU takes minutes and tells nothing of a card")
        return
    training = bench.recipe.student.training
    operations = bench.operations(bench.student(), bench.data.preprocessing)
    step, learner = bench.student_step(compiled=False)
    learner.model.compile(mode="reduce-overhead")
    bench.note("step student, by CUDA graphs", step, bench.batch, operations)
    other = bench.student_step(not training.compile)[0]
    bench.note(f"step student, {_kind(not training.compile)}", other, bench.batch, operations)
    for name, it in bench.recipe.teachers.items():
        step, _ = bench.teacher_step(name, not it.training.compile)
        bench.note(f"step {name}, {_kind(not it.training.compile)}", step, bench.batch)


def _kind(compiled: bool) -> str:
    return "compiled" if compiled else "eager"


if __name__ == "__main__":
    sys.exit(main())

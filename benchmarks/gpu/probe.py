"""Time what a GPU does with a recipe, part by part, in three minutes, and estimate what a longer job has time for.

    python benchmarks/gpu/probe.py --recipe RECIPE --out OUT --deadline EPOCH_SECONDS [--few N] [--rounds N] ARCHIVE...

It prints each result at once, and writes OUT/probe.json, OUT/profile.txt and $LIBKD/suggestion.env, whose variables
job.py reads from its environment. An error in one section is printed, and the next section runs. On a CPU it does the
same, at a smaller size.
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
from kernels import kernels
from msgspec.structs import replace
from torch import Tensor, nn
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler
from workbench import Step, Workbench, first_of, say

from trainer.arms import Arm, own_arm, plain_arm
from trainer.budget import cut
from trainer.checkpoint import Position
from trainer.data import load
from trainer.device import arithmetic, pick_device
from trainer.learner import Learner
from trainer.logits import fill_batch
from trainer.pipeline import train_arm
from trainer.progress import Silent
from trainer.recipe import Recipe, read_recipe
from trainer.run import Job, Run, Source, start_run, teacher_stage
from trainer.tensors import TensorFile
from trainer.train import train_teacher
from trainer.views import ViewSpec, render

SCRATCH = Path(os.environ.get("LIBKD", "libkd-scratch"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--deadline", type=float, default=time.time() + 170, help="seconds since 1970")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--few", type=int, default=4096, help="images of the first, whole run")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.5, help="the share of the job's images that is given here")
    parser.add_argument("data", nargs="+")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True
    options.out.mkdir(parents=True, exist_ok=True)
    SCRATCH.mkdir(parents=True, exist_ok=True)

    recipe, device = read_recipe(options.recipe), pick_device(options.device)
    started = time.perf_counter()
    data = load(options.data, recipe.data)
    data = with_(data, validation=first_of(data.validation, 1000))
    bench = Workbench(recipe, data, device, options.rounds, options.out)
    bench.figures["load_s"] = time.perf_counter() - started
    sizes = " + ".join(f"{len(split):,}" for split in (data.train, data.validation, data.test))
    say(f"{sizes} images in {bench.figures['load_s']:.1f} s")
    sections: dict[str, Callable[[Workbench], None]] = {
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
    """Run every section for which there is time, also after an error. Return the names of those that had an error."""
    faults = []
    for name, section in sections.items():
        if time.time() > deadline:
            say(f"-- {name}: left out, no time")
            continue
        say(f"-- {name}")
        try:
            section(bench)
        except Exception:  # any error: the GPU is there for minutes, and the other sections have to run
            faults.append(name)
            traceback.print_exc(file=sys.stdout)
        (bench.out / "probe.json").write_text(json.dumps(bench.figures, indent=1) + "\n")
    return faults


# The other sections, in the order in which they run


def ceilings(bench: Workbench) -> None:
    """Measure the highest rates that anything reaches here, in a large product and a copy, and the cost of a launch."""
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


def whole_path(bench: Workbench, few: int, source: Source) -> None:
    """Do every stage of a run on few images: errors show here, and what is compiled stays in the cache."""
    data = with_(
        bench.data,
        train=first_of(bench.data.train, few),
        validation=first_of(bench.data.validation, 256),
        test=first_of(bench.data.test, 512),
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
    job = Job(start_run(folder, short, data, source), data, bench.device, Silent())
    stages: list[tuple[str, Callable[[], object]]] = [
        *((teacher_stage(name), partial(train_teacher, job, name)) for name in short.teachers),
        *((arm.stage, partial(train_arm, job, arm)) for arm in (own_arm(job.run.recipe), plain_arm(job.run.recipe))),
    ]
    for stage, work in stages:
        started = time.perf_counter()
        work()
        top1 = job.run.net_record(stage).results["test"].top1
        say(f"   {stage}: {time.perf_counter() - started:.1f} s, compiling included; top-1 {top1:.1%}")


def rendering(bench: Workbench) -> None:
    """Time the views of one batch, and of as many batches as a GPU renders at once."""
    specs = {"student": bench.recipe.views.spec, **{name: it.views for name, it in bench.recipe.teachers.items()}}
    for name, spec in specs.items():
        for count in sorted({min(bench.batch * many, len(bench.train)) for many in (1, 16)}):
            images, ids = bench.train.pixels()[:count], bench.train.ids[:count]
            step = partial(_render, images, ids, spec)
            bench.note(f"views {name} {count}", step, count, rounds=10)


def _render(images: Tensor, ids: Tensor, spec: ViewSpec, number: int) -> None:
    render(images, ids, seed=0, view=number, spec=spec)


def steps(bench: Workbench) -> None:
    """Time a step of every net, and of the student without teachers."""
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
    """Time how fast views are rendered and answered by all teachers."""
    operations = sum(bench.operations(it.net, it.preprocessing, backward=False) for it in bench.teachers.values())
    for teacher in bench.teachers.values():
        teacher.net.eval()
    height, width = bench.train.size
    batch = min(fill_batch(height, width, bench.device), len(bench.train))
    indices = torch.arange(batch, device=bench.device)
    (images,) = bench.train.images.feed([indices], bench.device)

    @torch.inference_mode()
    def answered(view: int) -> None:
        seen = render(images, bench.train.ids[indices], seed=0, view=view, spec=bench.recipe.views.spec)
        for teacher in bench.teachers.values():
            teacher.answer(seen.pixels)

    rate = bench.figures["fill_per_s"] = 1000 * batch / bench.milliseconds(answered, 3, 1)
    share = bench.figures["fill_share_of_peak"] = rate * operations / bench.figures["peak_flops"]
    say(f"   {rate:,.0f} images per second, by {len(bench.teachers)} teachers, {share:.1%} of the peak")


def checkpoints(bench: Workbench) -> None:
    """Time how long it takes to write a checkpoint of each net."""
    for name, (step, learner) in bench.as_in_the_recipe().items():
        step(0)
        file = TensorFile(SCRATCH / f"{name}.safetensors", f"a checkpoint of {name}", "remove it")
        bench.figures[f"checkpoint {name}_ms"] = bench.milliseconds(partial(_save, learner, file), 5, 1)
        say(f"   of {name}: {bench.figures[f'checkpoint {name}_ms']:.0f} ms")
        file.path.unlink(missing_ok=True)


def _save(learner: Learner[nn.Module], file: TensorFile, number: int) -> None:
    learner.save(file, Position(number))


def waits(bench: Workbench) -> None:
    """Find the lines in which a step waits for the device. Each of them empties the device's queue."""
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
    """Estimate for how many epochs and views of the recipe job.py has time."""
    seconds = float(os.environ.get("SECONDS_FOR_MAIN", "510")) - 50  # for the start, for decoding, and as a reserve

    class Told(Silent):
        def tell(self, text: str) -> None:
            say("  ", text)

    def arms(recipe: Recipe) -> list[Arm]:
        return [own_arm(recipe), plain_arm(recipe)]

    job = Job(Run(SCRATCH, bench.recipe), bench.data, bench.device, Told())
    fitting = cut(job, seconds * share, arms=arms)
    lines = {
        "TEACHER_EPOCHS": min(it.training.epochs for it in fitting.teachers.values()),
        "STUDENT_EPOCHS": fitting.student.training.epochs,
        "VIEWS": fitting.views.count,
    }
    (SCRATCH / "suggestion.env").write_text("".join(f"{name}=${{{name}:-{value}}}\n" for name, value in lines.items()))
    say("  ", *(f"{name}={value}" for name, value in lines.items()))


def tables(bench: Workbench) -> None:
    """Write the profiler's tables, sorted by device time and by host time, and measure how busy the device is."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.on_gpu else [])]
    images, ids = bench.train.pixels()[: bench.batch], bench.train.ids[: bench.batch]
    work: dict[str, Step] = {"views": partial(_render, images, ids, bench.recipe.views.spec)}
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
                # Only kernels: operators, and the names that torch gives to regions, count the same time again.
                ran = [it for it in averages if it.device_type.name == "CUDA" and not it.is_user_annotation]
                busy = sum(it.self_device_time_total for it in ran) / 3000
                bench.figures |= {f"launches {name}": launches, f"busy {name}_ms": busy}
                say(f"   {name}: {launches:.0f} launches, the device busy for {busy:.2f} ms of a step")


def variants(bench: Workbench) -> None:
    """Time what the recipe does not use: compiled instead of eager nets or the other way round, and CUDA graphs."""
    if not bench.on_gpu:
        say("   left out: compiling for a CPU takes minutes and says nothing about a GPU")
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

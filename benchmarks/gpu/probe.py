"""What a card does with a recipe, in three minutes: every part of every stage timed, and what a longer job can afford.

    python benchmarks/gpu/probe.py --recipe RECIPE --out OUT --deadline EPOCH_SECONDS [--few N] [--rounds N] ARCHIVE...

Prints as it goes, and leaves OUT/probe.json, OUT/profile.txt and $LIBKD/suggestion.env, which job.py reads from its
environment. A fault in one section is told, and the next one runs. On a CPU it does the same, smaller.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as with_
from functools import cached_property, partial
from pathlib import Path

import torch
from msgspec.structs import replace
from torch import Tensor, nn
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler
from torch.utils.flop_counter import FlopCounterMode

from trainer.budget import cut
from trainer.data import Dataset, Preprocessing, Split, load, to_input
from trainer.device import arithmetic
from trainer.distill import own_arm, plain_arm
from trainer.learner import Learner
from trainer.logits import teachers_rate
from trainer.loop import Batch, batches
from trainer.losses import distillation, labels_alone, soft_cross_entropy
from trainer.models import Teacher, create_teacher, involution
from trainer.recipe import Recipe, Training, read_recipe
from trainer.run import Run, Source, create_student, pick_device, start_run
from trainer.stages import train_arm
from trainer.teach import teach
from trainer.views import render
from trainer.watch import Unwatched

START = time.perf_counter()
SCRATCH = Path(os.environ.get("LIBKD", "libkd-scratch"))
Step = Callable[[int], None]


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
    probe = Probe(recipe, data, device, options.rounds, options.out)
    probe.figures["load_s"] = time.perf_counter() - started
    sizes = " + ".join(f"{len(split):,}" for split in (data.train, data.validation, data.test))
    say(f"{sizes} pictures in {probe.figures['load_s']:.1f} s")
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
    faults = run_sections(probe, sections, options.deadline)
    say("FAULTS IN " + ", ".join(faults) if faults else "no faults")
    return 1 if faults else 0


def run_sections(probe: Probe, sections: Mapping[str, Callable[[Probe], None]], deadline: float) -> list[str]:
    """Run each for which there is time, after a fault too, and return the names of those that had one."""
    faults = []
    for name, section in sections.items():
        if time.time() > deadline:
            say(f"-- {name}: left out, no time")
            continue
        say(f"-- {name}")
        try:
            section(probe)
        except Exception:
            faults.append(name)
            traceback.print_exc(file=sys.stdout)
        (probe.out / "probe.json").write_text(json.dumps(probe.figures, indent=1) + "\n")
    return faults


@dataclass
class Probe:
    """What all sections share; `figures` is what they find."""

    recipe: Recipe
    data: Dataset
    device: torch.device
    rounds: int
    out: Path
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def batch(self) -> int:
        return self.recipe.student.training.batch

    @cached_property
    def train(self) -> Split:
        return self.data.train.to(self.device)

    @cached_property
    def shown(self) -> list[Batch]:
        """Two batches of the student's views."""
        rows = batches(self.train, seed=0, view=0, epoch=0, size=self.batch, spec=self.recipe.views.spec)
        return [next(rows) for _ in range(min(2, len(self.train) // self.batch))]

    @cached_property
    def teachers(self) -> dict[str, Teacher]:
        """The recipe's teachers, untrained: what is learned does not matter to the time."""
        return {
            name: create_teacher(
                replace(it, pretrained=False, weights=None, training=Training()),
                len(self.data.labels),
                self.data.preprocessing,
            ).to(self.device)
            for name, it in self.recipe.teachers.items()
        }

    def student(self) -> nn.Module:
        return create_student(
            self.recipe.student, len(self.recipe.teachers), len(self.data.labels), self.data.preprocessing
        )

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def milliseconds(self, step: Step, rounds: int | None = None, warm: int = 3) -> float:
        """Return what one step among many takes, the device's queue kept full: the median of five parts."""
        for number in range(warm):
            step(number)
        part, times = max(1, (rounds or self.rounds) // 5), []
        self.wait()
        for start in range(0, 5 * part, part):
            started = time.perf_counter()
            for number in range(start, start + part):
                step(number)
            self.wait()
            times.append((time.perf_counter() - started) / part)
        return 1000 * statistics.median(times)

    def prepared(self, number: int, preprocessing: Preprocessing) -> tuple[Batch, Tensor, Tensor]:
        one = self.shown[number % len(self.shown)]
        targets = one.view.targets(self.train.labels[one.indices], len(self.data.labels), 0.1)
        return one, to_input(one.view.pixels, preprocessing), targets

    def teacher_step(self, name: str, compiled: bool) -> tuple[Step, Learner]:
        teacher, training = self.teachers[name], replace(self.recipe.teachers[name].training, compile=compiled)
        learner = Learner(teacher.net, training, 1000, self.device)

        def step(number: int) -> None:
            _, inputs, targets = self.prepared(number, teacher.preprocessing)
            learner.step(number, inputs, lambda output: soft_cross_entropy(output, targets))

        return step, learner

    def student_step(self, compiled: bool, taught: bool = True) -> tuple[Step, Learner]:
        arm = own_arm(Run(Path(), self.recipe))
        learner = Learner(self.student(), replace(self.recipe.student.training, compile=compiled), 1000, self.device)
        size = (len(self.train), len(self.recipe.teachers), len(self.data.labels))
        kept, teaching = torch.randn(size, device=self.device).half(), arm.teaching()

        def step(number: int) -> None:
            one, inputs, targets = self.prepared(number, self.data.preprocessing)

            def loss_of(output: Tensor) -> Tensor:
                if not taught:
                    return sum(labels_alone(output, targets).values())
                return sum(distillation(output, targets, kept[one.places].float(), teaching).values())

            learner.step(number, inputs, loss_of)

        return step, learner

    def as_in_the_recipe(self) -> dict[str, tuple[Step, Learner]]:
        found = {name: self.teacher_step(name, it.training.compile) for name, it in self.recipe.teachers.items()}
        return {**found, "student": self.student_step(self.recipe.student.training.compile)}

    def operations(self, net: nn.Module, preprocessing: Preprocessing, backward: bool = True) -> float:
        """Return the floating-point operations of a picture, in products and convolutions."""
        pictures = 2
        inputs = to_input(self.shown[0].view.pixels[:pictures], preprocessing)
        with FlopCounterMode(display=False) as counter:
            answers = net.to(self.device).train()(inputs)
            if backward:
                answers.sum().backward()
        return counter.get_total_flops() / pictures

    def note(self, name: str, step: Step, pictures: int, operations: float = 0.0, rounds: int | None = None) -> None:
        """Time a step, print and keep it: with pictures a second, memory, and the share of the measured peak."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        step(0)
        self.wait()
        first, ms = time.perf_counter() - started, self.milliseconds(step, rounds)
        self.figures[f"{name}_ms"] = ms
        self.figures[f"{name}_per_s"] = 1000 * pictures / ms
        text = f"   {name}: first {first:.1f} s, then {ms:.2f} ms for {pictures}, {1000 * pictures / ms:,.0f} a second"
        if operations and "peak_flops" in self.figures:
            share = operations * pictures / (ms / 1000) / self.figures["peak_flops"]
            self.figures[f"{name}_share_of_peak"] = share
            text += f", {share:.1%} of the peak"
        if self.on_gpu:
            self.figures[f"{name}_gib"] = torch.cuda.max_memory_allocated() / 2**30
            text += f", {self.figures[f'{name}_gib']:.1f} GiB"
        say(text)


def say(*text: object) -> None:
    print(f"[{time.perf_counter() - START:6.1f} s]", *text, flush=True)


def _first(split: Split, count: int) -> Split:
    return split.take(torch.arange(min(count, len(split))))


# The sections, in order


def ceilings(probe: Probe) -> None:
    """The largest rates that anything reaches here: a large product, a large copy; and what a launch costs."""
    size, copied = (8192, 2**30) if probe.on_gpu else (1024, 2**26)
    short = arithmetic(probe.recipe.student.training.precision, probe.device) == "bf16"
    one, other = (
        torch.randn(size, size, device=probe.device, dtype=torch.bfloat16 if short else torch.float32) for _ in range(2)
    )
    ms = probe.milliseconds(lambda _: one @ other, 10)
    source = torch.ones(copied, dtype=torch.uint8, device=probe.device)
    target, tiny = torch.empty_like(source), torch.zeros(512, device=probe.device)
    copy = probe.milliseconds(lambda _: target.copy_(source), 10)
    small = probe.milliseconds(lambda _: [tiny.add_(1) for _ in range(200)], 10)
    probe.figures |= {
        "peak_flops": 2 * size**3 / ms * 1000,
        "copy_bytes_per_s": 2 * copied / copy * 1000,
        "launch_us": small * 1000 / 200,
    }
    say(
        f"   {one.dtype} product {probe.figures['peak_flops'] / 1e12:.3g} TFLOP/s, copy "
        f"{probe.figures['copy_bytes_per_s'] / 1e12:.3g} TB/s, a small operation {probe.figures['launch_us']:.1f} us"
    )


def kernels(probe: Probe) -> None:
    """Involution and the views on this device against the CPU's."""
    for stride in (1, 2):
        for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
            errors = _involution_errors(stride, dtype, probe.device)
            say(f"   involution, stride {stride}, {dtype}: relative errors", ", ".join(f"{e:.1e}" for e in errors))
            if not max(errors) < limit:
                raise AssertionError("the kernels are wrong")
    few = _first(probe.data.train, 512)
    here, there = (
        render(few.images.to(where), few.ids.to(where), seed=0, view=0, spec=probe.recipe.views.spec).pixels.cpu()
        for where in (probe.device, torch.device("cpu"))
    )
    probe.figures["views_apart"] = (here - there).abs().max().item()
    say(f"   views: at most {probe.figures['views_apart']:.1e} from the CPU's")


def _involution_errors(stride: int, dtype: torch.dtype, device: torch.device) -> list[float]:
    """Relative errors of the answer and both gradients, to float64 on the CPU."""
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


def whole_path(probe: Probe, few: int, source: Source) -> None:
    """Teach, store, distil, judge on a few pictures: what is broken shows here, and what is compiled stays cached."""
    data = with_(
        probe.data,
        train=_first(probe.data.train, few),
        validation=_first(probe.data.validation, 256),
        test=_first(probe.data.test, 512),
    )
    recipe = probe.recipe
    short = replace(
        recipe,
        views=replace(recipe.views, count=2),
        teachers={name: replace(it, training=replace(it.training, epochs=1)) for name, it in recipe.teachers.items()},
        student=replace(recipe.student, training=replace(recipe.student.training, epochs=2, warmup=1.0)),
    )
    folder = SCRATCH / "whole-path"
    shutil.rmtree(folder, ignore_errors=True)
    run = start_run(folder, short, data, source)
    stages = [(f"teachers/{name}", partial(teach, run, name, data)) for name in short.teachers]
    stages += [(arm.stage, partial(train_arm, run, data, arm)) for arm in (own_arm(run), plain_arm(run))]
    for stage, work in stages:
        started = time.perf_counter()
        work(probe.device, Unwatched())
        top1 = run.config(stage)["results"]["test"]["top1"]
        say(f"   {stage}: {time.perf_counter() - started:.1f} s, compiling included; top-1 {top1:.1%}")


def rendering(probe: Probe) -> None:
    """The views of a batch, and of as many batches as a GPU renders at once."""
    specs = {"student": probe.recipe.views.spec, **{name: it.views for name, it in probe.recipe.teachers.items()}}
    for name, spec in specs.items():
        for pictures in sorted({min(probe.batch * many, len(probe.train)) for many in (1, 16)}):
            images, ids = probe.train.images[:pictures], probe.train.ids[:pictures]
            step = partial(_render, images, ids, spec)
            probe.note(f"views {name} {pictures}", step, pictures, rounds=10)


def _render(images: Tensor, ids: Tensor, spec: object, number: int) -> None:
    render(images, ids, seed=0, view=number, spec=spec)


def steps(probe: Probe) -> None:
    """A step of every net, and the student's without teachers."""
    nets = {name: (teacher.net, teacher.preprocessing) for name, teacher in probe.teachers.items()}
    nets["student"] = (probe.student(), probe.data.preprocessing)
    operations = {name: probe.operations(*net) for name, net in nets.items()}
    for name, (step, _) in probe.as_in_the_recipe().items():
        probe.note(f"step {name}", step, probe.batch, operations[name])
    plain, _ = probe.student_step(probe.recipe.student.training.compile, taught=False)
    probe.note("step student, untaught", plain, probe.batch, operations["student"])
    ratio = probe.figures["step student_ms"] / probe.figures["step student, untaught_ms"]
    probe.figures["stored / plain"] = ratio
    say(f"   a step with stored teachers takes {ratio:.2f} of one without")


def filling(probe: Probe) -> None:
    """Views rendered and answered by all teachers."""
    operations = sum(probe.operations(it.net, it.preprocessing, backward=False) for it in probe.teachers.values())
    for teacher in probe.teachers.values():
        teacher.net.eval()
    rate = probe.figures["fill_per_s"] = teachers_rate(probe.teachers, probe.train, probe.recipe.views.spec)
    share = probe.figures["fill_share_of_peak"] = rate * operations / probe.figures["peak_flops"]
    say(f"   {rate:,.0f} pictures a second, by {len(probe.teachers)} teachers, {share:.1%} of the peak")


def checkpoints(probe: Probe) -> None:
    """What it takes to keep a net's progress."""
    for name, (step, learner) in probe.as_in_the_recipe().items():
        step(0)
        path = SCRATCH / f"{name}.safetensors"
        probe.figures[f"checkpoint {name}_ms"] = probe.milliseconds(lambda _, it=learner, at=path: it.save(at, 1), 5, 1)
        say(f"   of {name}: {probe.figures[f'checkpoint {name}_ms']:.0f} ms")
        path.unlink(missing_ok=True)


def waits(probe: Probe) -> None:
    """Where a step waits for the device: each such line costs the queue."""
    if not probe.on_gpu:
        say("   a CPU has no queue")
        return
    for name, (step, _) in probe.as_in_the_recipe().items():
        step(0)
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            step(1)
        torch.cuda.set_sync_debug_mode("default")
        lines = [f"{Path(it.filename).name}:{it.lineno}" for it in found if "called a synchronizing" in str(it.message)]
        probe.figures[f"waits {name}"] = len(lines)
        say(f"   {name}: {len(lines)} a step", *sorted(set(lines)))


def affordable(probe: Probe, share: float) -> None:
    """The epochs and views of the recipe for which job.py has time."""
    seconds = float(os.environ.get("SECONDS_FOR_MAIN", "510")) - 50  # to start, to decode, to be sure

    class Told(Unwatched):
        def tell(self, text: str) -> None:
            say("  ", text)

    def arms(recipe: Recipe) -> list:
        run = Run(Path(), recipe)
        return [own_arm(run), plain_arm(run)]

    fitting = cut(probe.recipe, probe.data, seconds * share, probe.device, Told(), arms=arms)
    lines = {
        "TEACHER_EPOCHS": min(it.training.epochs for it in fitting.teachers.values()),
        "STUDENT_EPOCHS": fitting.student.training.epochs,
        "VIEWS": fitting.views.count,
    }
    (SCRATCH / "suggestion.env").write_text("".join(f"{name}=${{{name}:-{value}}}\n" for name, value in lines.items()))
    say("  ", *(f"{name}={value}" for name, value in lines.items()))


def tables(probe: Probe) -> None:
    """The profiler's tables, by the device's time and by the host's, and how busy the device is."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if probe.on_gpu else [])]
    images, ids = probe.train.images[: probe.batch], probe.train.ids[: probe.batch]
    work = {"views": partial(_render, images, ids, probe.recipe.views.spec)}
    work |= {name: step for name, (step, _) in probe.as_in_the_recipe().items()}
    with (probe.out / "profile.txt").open("w") as file:
        for name, step in work.items():
            for number in range(3):
                step(number)
            probe.wait()
            with profiler(activities=activities) as seen:
                for number in range(3):
                    step(number)
                probe.wait()
            averages = seen.key_averages()
            for by in ("self_cuda_time_total", "self_cpu_time_total")[0 if probe.on_gpu else 1 :]:
                table = averages.table(sort_by=by, row_limit=25, max_name_column_width=70)
                print(f"===== {name}, three steps, by {by}\n{table}", file=file)
            if probe.on_gpu:
                launches = sum(event.count for event in averages if "LaunchKernel" in event.key) / 3
                busy = (
                    sum(event.self_device_time_total for event in averages if event.device_type.name == "CUDA") / 3000
                )
                probe.figures |= {f"launches {name}": launches, f"busy {name}_ms": busy}
                say(f"   {name}: {launches:.0f} launches, the device busy for {busy:.2f} ms of a step")


def variants(probe: Probe) -> None:
    """What the recipe does not do, and whether it would pay: the other one of compiled and eager, and CUDA graphs."""
    if not probe.on_gpu:
        say("   to compile for a CPU takes minutes and tells nothing of a card")
        return
    training = probe.recipe.student.training
    operations = probe.operations(probe.student(), probe.data.preprocessing)
    step, learner = probe.student_step(compiled=False)
    learner.model.compile(mode="reduce-overhead")
    probe.note("step student, by CUDA graphs", step, probe.batch, operations)
    other = probe.student_step(not training.compile)[0]
    probe.note(f"step student, {_kind(not training.compile)}", other, probe.batch, operations)
    for name, it in probe.recipe.teachers.items():
        step, _ = probe.teacher_step(name, not it.training.compile)
        probe.note(f"step {name}, {_kind(not it.training.compile)}", step, probe.batch)


def _kind(compiled: bool) -> str:
    return "compiled" if compiled else "eager"


if __name__ == "__main__":
    sys.exit(main())

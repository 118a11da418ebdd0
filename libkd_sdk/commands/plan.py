"""The command `libkd-sdk plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from runtimes.engines import RUNNABLE, check_runs_here
from sdk.errors import UsageError
from sdk.exporting.request import find_lowering
from trainer.units import count_of, duration

from ..latency import Device, Shape, find, shapes, time_here, times_of
from ..options import (
    BatchOption,
    DataOption,
    DeviceOption,
    EpochsOption,
    LrOption,
    MeasuredThreadsOption,
    RecipeOption,
    RootOption,
    SetOption,
    SizeOption,
    SkipBadOption,
    UnlabelledOption,
    training_extra,
)
from ..output import Bars, JsonOption, QuietOption, remark, show_facts, show_json, show_table, stdout
from .export import PRECISIONS

if TYPE_CHECKING:
    from trainer.data import Dataset
    from trainer.estimate import Estimate
    from trainer.plan import Plan
    from trainer.recipe import Recipe

SHOWN = 8
"""The number of students that are shown for a latency."""

MEASURED_S = 2.0
"""The seconds that the steps of each net are timed, after the first step."""


def _count(text: str) -> int:
    try:
        return count_of(text)
    except ValueError as fault:
        raise typer.BadParameter(str(fault)) from fault


def plan(
    data: DataOption = None,
    unlabelled: UnlabelledOption = None,
    images: Annotated[
        int | None,
        typer.Option(
            "--images",
            "--samples",
            parser=_count,
            metavar="NUMBER",
            help="The number of training images, such as 50000 or 1e9. With --data, whose images are then a sample of "
            "them, the plan is scaled to this number.",
        ),
    ] = None,
    classes: Annotated[
        int | None, typer.Option("--classes", min=2, help="Without --data: the number of classes.")
    ] = None,
    size: SizeOption = None,
    recipe: RecipeOption = None,
    root: RootOption = None,
    skip_bad: SkipBadOption = False,
    epochs: EpochsOption = None,
    batch: BatchOption = None,
    lr: LrOption = None,
    set: SetOption = None,
    device: DeviceOption = "auto",
    threads: MeasuredThreadsOption = None,
    nodes: Annotated[
        int,
        typer.Option(
            "--nodes",
            min=1,
            help="The number of machines like this one that share the run, with one process for each GPU or CPU.",
        ),
    ] = 1,
    latency_ms: Annotated[
        float | None,
        typer.Option("--latency-ms", min=0.0, help="Look for students that take no longer than this for an image."),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", autocompletion=lambda: list(RUNNABLE), help="With --latency-ms: the engine.")
    ] = "onnx",
    precision: Annotated[
        str,
        typer.Option("--precision", autocompletion=lambda: PRECISIONS, help="With --latency-ms: the precision."),
    ] = "fp32",
    measured: Annotated[
        Path | None,
        typer.Option(
            "--measured", help="With --latency-ms: the output of benchmark --json on another device, instead of this."
        ),
    ] = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Estimate what a run costs on this machine: its time, its storage, and from when on the logit store pays off.

    The command starts each stage of the run on a few images, and times some of its steps. The images are those of
    --data. Before there are any, --images, --classes and --size describe them. With both --data and --images, the plan
    is for that many images like those of --data. Nothing is written.

    With --nodes, the command also gives the least time that this many machines need, and says how many of them can
    share a training.

    With --latency-ms it looks for the largest students that are fast enough, and gives each as a [student] table for a
    recipe. A few of them are exported with random weights and timed on this device; the times of the others follow from
    their work. With --measured, the times are those of another device, and nothing is timed here.

    Example: libkd-sdk plan --images 50000 --classes 100 --size 32
    """
    if latency_ms is not None:
        find_lowering(target, precision)
        check_runs_here(target, None, f"--target {target}")
        if nodes > 1:
            raise UsageError("--nodes does not go with --latency-ms, which looks for students and trains none")
        images = images or 2  # their number does not matter
    elif measured is not None:
        raise UsageError("--measured goes with --latency-ms")
    if data is None and (images is None or classes is None or size is None):
        raise UsageError("name the images by --data, or describe them by --images, --classes and --size")
    if data is not None and classes is not None:
        raise UsageError("--classes describes images that --data does not name; leave it out")
    with training_extra():
        from trainer.counts import Counts
        from trainer.estimate import IMAGINED, imagined
        from trainer.models import check_nets
        from trainer.pace import from_scratch
        from trainer.plan import plan_run
        from trainer.recipe import read_recipe, recipe_for
        from trainer.run import Job, Run
        from trainer.settings import Settings
        from trainer.start import at_speed, choose, choose_sample, source_of

    settings = Settings(epochs=epochs, batch=batch, lr=lr, size=size, keys=set or ())
    with Bars() as bars:
        if (source := source_of(data, unlabelled or (), root, skip_bad)) and images and latency_ms is None:
            chosen, dataset, counts = choose_sample(source, images, recipe, bars, settings)
        elif source:
            chosen, dataset = choose(source, recipe, bars, settings)
            counts = Counts.of(dataset)
        else:
            chosen = settings.applied(read_recipe(recipe) if recipe else recipe_for(size or 0))
            counts = Counts.holding_out(images or 0, chosen.data.holdout)
            dataset = imagined(chosen, counts.at_most(IMAGINED), classes=classes or 0, size=size or 0)
        if latency_ms is not None:
            there = Device(target, precision, threads)
            fitting = _students(chosen, dataset, latency_ms, there, measured, bars)
        else:
            check_nets(from_scratch(chosen), len(dataset.labels), dataset.preprocessing)
            with at_speed(device, threads, bars) as torch_device:
                job = Job(Run(Path(), chosen), dataset, torch_device, bars)
                found = plan_run(job, counts, nodes=nodes, seconds=MEASURED_S)
    if latency_ms is not None:
        _show_students(fitting, latency_ms, there, json)
    elif json:
        show_json(_facts(found, nodes))
    else:
        _show(found, nodes, dataset.preprocessing.input.width)


def _facts(plan: Plan, nodes: int) -> dict[str, Any]:
    store = plan.store and {**plan.store._asdict(), "pays_from_student": plan.store.students}
    return {
        "images": plan.counts._asdict(),
        "classes": plan.classes,
        "device": plan.device,
        **_seconds(plan.stages),
        "store": store,
        "seconds": plan.stages.seconds,
        "teachers_at_once": plan.stages.teachers_at_once,
        "epoch_seconds": _seconds(plan.epochs),
        "nodes": {
            "count": nodes,
            "processes": plan.processes,
            "training_processes": plan.trainers,
            "limit": plan.limit or None,
            "at_least": {**_seconds(plan.least), "seconds": plan.least.seconds},
            "pays_from_student": plan.pays_from,
        },
    }


def _seconds(stages: Estimate) -> dict[str, Any]:
    (student,) = stages.students.values()
    return {"teachers": stages.teachers, "store": stages.store, "student": student}


def _show(plan: Plan, nodes: int, side: int) -> None:
    heads, columns = ["", f"on one {plan.device}", "an epoch or view"], [plan.stages, plan.epochs]
    if plan.processes > 1:
        heads.append(f"on {plan.processes:,}, at least")
        columns.append(plan.least)
    rows = {f"teacher {name}": [it.teachers[name] for it in columns] for name in plan.stages.teachers}
    rows |= {"logit store": [it.store for it in columns]} if plan.store else {}
    rows |= {stage: [it.students[stage] for it in columns] for stage in plan.stages.students}
    rows["together"] = [0.0 if it is plan.epochs else it.seconds for it in columns]
    show_table(
        f"{plan.counts.train:,} images of {side}x{side}, {plan.classes:,} classes",
        heads,
        [[name, *(duration(seconds) if seconds else "-" for seconds in times)] for name, times in rows.items()],
    )
    facts = [
        ("held out", f"{plan.counts.validation:,} images for validation, {plan.counts.test:,} for the test"),
        ("logit store", str(plan.store) if plan.store else "none: the teachers answer online"),
    ]
    if (at_once := plan.stages.teachers_at_once) > 1:
        facts.append(("teachers", f"{at_once} are trained side by side, each with a part of the threads"))
    if plan.processes > 1 or plan.limit:
        all_fill = "all fill the store, and " if plan.store else ""
        limited = f"{all_fill}{plan.trainers:,} train together; {plan.limit}"
        work = limited if plan.limit else "all share each batch; how long they wait for each other was not measured"
        facts.append(("processes", f"{plan.processes:,} on {nodes:,} machine{'s' * (nodes != 1)}: {work}"))
    show_facts("", facts)


def _students(
    recipe: Recipe, data: Dataset, latency_ms: float, device: Device, measured: Path | None, bars: Bars
) -> list[Shape]:
    """Return the students for a latency, timed here or as another device timed them."""
    teachers, classes, preprocessing = len(recipe.teachers), len(data.labels), data.preprocessing
    bars.begin("counting operations", 1)
    candidates = shapes(recipe.student, teachers, classes, preprocessing)
    bars.end(f"{len(candidates)} students")
    if measured is not None:
        return find(candidates, latency_ms, None, times_of(measured, candidates, preprocessing.input.height, device))

    def measure(shape: Shape) -> float:
        bars.begin(f"timing {shape.name}", 1)
        ms = time_here(shape, teachers, classes, preprocessing, device)
        bars.end(f"{ms:.2f} ms")
        return ms

    return find(candidates, latency_ms, measure, {})


def _show_students(found: list[Shape], latency_ms: float, device: Device, json: bool) -> None:
    first = found[0]
    if json:
        show_json([{**it._asdict(), "student": msgspec.to_builtins(it.student)} for it in found])
        return
    if (first.ms or 0.0) > latency_ms:
        remark(f"no student takes {latency_ms:g} ms or less as {device.target} {device.precision}; this one is nearest")
    show_table(
        f"students for {latency_ms:g} ms, {device.target} {device.precision}, the largest first",
        ["", "heads", "parameters", "size", "multiplications", "latency"],
        [
            [
                it.name,
                str(it.student.heads),
                f"{it.parameters / 1e6:.2f} M",
                f"about {it.megabytes(device.precision):.2g} MB",
                f"{it.operations / 1e6:,.0f} M",
                f"{it.ms:.2f} ms" if it.is_measured else f"about {it.ms:.2g} ms",
            ]
            for it in found[:SHOWN]
        ],
    )
    stdout.print(first.table, markup=False)

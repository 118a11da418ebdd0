"""The latency of nets as bundles on this device: of students of random weights for `plan`, and of a comparison's."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace

from runtimes.engines import RUNNABLE
from sdk import benchmark
from sdk.benchmark import Measurement, Speed
from sdk.bundle import Bundle
from sdk.errors import EngineMissing, UsageError
from sdk.exporting.request import find_lowering

if TYPE_CHECKING:
    from torch import nn

    from sdk.images import Preprocessing
    from trainer.recipe import StudentRecipe
    from trainer.run import Run

WIDTHS, DEPTHS = (64, 96, 128, 192, 256, 320, 384), (2, 3, 4, 6, 9, 12)
LEAST_SIDE, MOST_SIDE = 3, 20
"""The smallest and the largest number of patches along a side of the image."""

ROUNDS = 3
"""The turns of a measurement."""

MOST_EXPORTS = 4
"""Each export takes up to a minute. After the second one, the times of the others are known well enough."""


class Shape(NamedTuple):
    """A student that may be built.

    Attributes:
        student: its table of the recipe.
        parameters: the number of its parameters.
        operations: the multiplications for one image.
        ms: the milliseconds for one image; None before they are known.
        is_measured: whether the time was measured, and not estimated from those of others.
    """

    student: StudentRecipe
    parameters: int
    operations: float
    ms: float | None = None
    is_measured: bool = False

    @property
    def name(self) -> str:
        return f"{self.student.width} wide, {self.student.depth} deep, patch {self.student.patch}"

    def megabytes(self, precision: str) -> float:
        """Return the size of its bundle; at int8, some of its values stay in float."""
        return self.parameters * {"fp32": 4.0, "fp16": 2.0}.get(precision, 1.1) / 1e6

    @property
    def table(self) -> str:
        """The table to paste into a recipe."""
        it = self.student
        keys = {"patch": it.patch, "width": it.width, "depth": it.depth, "heads": it.heads}
        return "\n".join(["[student]", *(f"{name} = {value}" for name, value in keys.items())])


def shapes(base: StudentRecipe, teachers: int, classes: int, preprocessing: Preprocessing) -> list[Shape]:
    """Return students of many widths, depths and patches, otherwise like `base`, from the smallest work to the largest.

    Raises:
        RecipeError: no patch divides images of this size.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from trainer.models import create_student

    size = preprocessing.input.height
    found = []
    for student in _grid(base, size):
        with torch.device("meta"):
            net = create_student(student, teachers, classes, preprocessing).eval()
            counter = FlopCounterMode(display=False)
            with counter, torch.no_grad():
                net(torch.empty(1, 3, size, size))
        parameters = sum(parameter.numel() for parameter in net.parameters())
        found.append(Shape(student, parameters, counter.get_total_flops() / 2))
    return sorted(found, key=lambda shape: shape.operations)


def _grid(base: StudentRecipe, size: int) -> Iterator[StudentRecipe]:
    for patch in (base.patch // 2, base.patch, base.patch * 2):
        fits = patch >= 2 and LEAST_SIDE <= size / patch <= MOST_SIDE and (base.stem == "conv" or size % patch == 0)
        if not fits and patch != base.patch:
            continue
        for width in WIDTHS:
            for depth in DEPTHS:
                yield replace(base, patch=patch, width=width, depth=depth, heads=width // (32 if width < 128 else 64))


def find(
    candidates: Sequence[Shape],
    latency_ms: float,
    measure: Callable[[Shape], float] | None,
    known: Mapping[float, float],
) -> list[Shape]:
    """Return the candidates that fit a latency, the largest first; if none does, the fastest one alone.

    The largest that should fit is measured, which corrects the estimates of all others, until it is the one that was
    measured. Between two measured students, the logarithm of the time is interpolated by that of the work; beyond
    them, the time grows with the work.

    Args:
        candidates: sorted by their work.
        measure: returns the milliseconds of a student; None if only `known` counts.
        known: milliseconds by operations that were measured elsewhere.
    """
    points, measured = dict(known), dict[int, float]()
    pick = len(candidates) // 2
    for _ in range(MOST_EXPORTS if measure else 0):
        assert measure is not None
        measured[pick] = points[candidates[pick].operations] = measure(candidates[pick])
        times = _times(candidates, points, measured)
        fitting = [index for index, ms in enumerate(times) if ms <= latency_ms]
        pick = fitting[-1] if fitting else int(np.argmin(times))
        if pick in measured:
            break
    times = _times(candidates, points, measured)
    timed = [it._replace(ms=times[index], is_measured=index in measured) for index, it in enumerate(candidates)]
    fitting_shapes = [it for it in reversed(timed) if (it.ms or 0.0) <= latency_ms]
    return fitting_shapes or [min(timed, key=lambda it: it.ms or 0.0)]


def _times(candidates: Sequence[Shape], points: Mapping[float, float], measured: Mapping[int, float]) -> list[float]:
    work, times = zip(*sorted(points.items()), strict=True)
    logs = np.log([it.operations for it in candidates])
    inside = np.exp(np.interp(logs, np.log(work), np.log(times)))
    beyond = np.exp(logs - np.clip(logs, math.log(work[0]), math.log(work[-1])))
    return [measured.get(index, float(ms)) for index, ms in enumerate(inside * beyond)]


class Device(NamedTuple):
    """The way in which students are deployed: the engine and precision of a bundle, and its threads."""

    target: str
    precision: str
    threads: int | None


def time_here(shape: Shape, teachers: int, classes: int, preprocessing: Preprocessing, device: Device) -> float:
    """Return the milliseconds of a student of random weights as a bundle on this device: the median of one image."""
    from trainer.models import create_student

    net = create_student(shape.student, teachers, classes, preprocessing).eval()
    with tempfile.TemporaryDirectory() as folder:
        bundle = _exported(net, Path(folder) / "bundle", classes, preprocessing, device)
        (found,) = benchmark.measure([bundle], rounds=ROUNDS, threads=device.threads, bare=False)
    return found.speed.p50_ms


def _exported(net: nn.Module, out: Path, classes: int, preprocessing: Preprocessing, device: Device) -> Bundle:
    import sdk

    side = preprocessing.input.height
    noise = np.random.default_rng(0).integers(0, 256, (16, side, side, 3), np.uint8)
    return sdk.export(
        net,
        target=device.target,
        precision=device.precision,
        out=out,
        labels=[str(index) for index in range(classes)],
        preprocessing=preprocessing,
        calibration=noise if device.precision == "int8" else None,
        golden="none",
    )


def installed_engine() -> str | None:
    """Return the first engine for which nets can be exported here, or None."""
    for target in RUNNABLE:
        try:
            find_lowering(target, "fp32")
        except EngineMissing:
            continue
        return target
    return None


def time_nets(run: Run, stages: Iterable[str], target: str, progress: Callable[[int, int], None]) -> dict[str, Speed]:
    """Return the speed of nets of a run as bundles at fp32, on one thread of this device.

    Students of the same shape are measured once.

    Args:
        stages: the nets' folders in the run.
        progress: is told how many bundles are made, and how many there will be.
    """
    shapes = {stage: _shape(run, stage) for stage in stages}
    first = {shape: stage for stage, shape in reversed(shapes.items())}
    labels, device = run.data_record().labels, Device(target, "fp32", 1)
    with tempfile.TemporaryDirectory() as folder:
        bundles = []
        for done, stage in enumerate(first.values()):
            progress(done, len(first))
            net, preprocessing = _net(run, stage)
            bundles.append(_exported(net, Path(folder) / str(done), len(labels), preprocessing, device))
        progress(len(first), len(first))
        found = benchmark.measure(bundles, rounds=ROUNDS, threads=device.threads, bare=False)
    speeds = {shape: it.speed for shape, it in zip(first, found, strict=True)}
    return {stage: speeds[shape] for stage, shape in shapes.items()}


def _shape(run: Run, stage: str) -> tuple[object, ...]:
    """Return what decides the latency of a net."""
    from trainer.records import StudentRecord

    record = run.net_record(stage)
    if isinstance(record, StudentRecord):
        return record.student.title, record.student.tokens, record.student.heads, record.parameters
    return (stage,)


def _net(run: Run, stage: str) -> tuple[nn.Module, Preprocessing]:
    from trainer.run import load_student, load_teacher, teacher_stage

    for name in run.recipe.teachers:
        if stage == teacher_stage(name):
            return load_teacher(run, name).for_images(run.recipe.data.size)
    student, _, preprocessing = load_student(run, stage)
    return student, preprocessing


_ARCH = re.compile(r"vit-(conv|patch)(\d+)-(\d+)x(\d+)")


def times_of(path: Path, candidates: Sequence[Shape], size: int, device: Device) -> dict[float, float]:
    """Return milliseconds by operations from a file that `benchmark --json` wrote on another device.

    Raises:
        UsageError: the file is no such file, or holds no student of this input size for the engine and precision.
    """
    try:
        rows = msgspec.json.decode(path.read_bytes(), type=list[Measurement])
    except (OSError, msgspec.MsgspecError) as fault:
        raise UsageError(f"{path}: not what `libkd-sdk benchmark --json` writes ({fault}); measure again") from fault
    work = {(it.student.stem, it.student.patch, it.student.width, it.student.depth): it.operations for it in candidates}
    found = {}
    for row in rows:
        arch = _ARCH.fullmatch(row.arch)
        if arch and (row.target, row.precision, row.input_size) == (device.target, device.precision, size):
            key = (arch[1], int(arch[2]), int(arch[3]), int(arch[4]))
            if key in work:
                found[work[key]] = row.speed.p50_ms
    if not found:
        raise UsageError(
            f"{path}: no student of {size}x{size} pixels for {device.target} {device.precision} in it; export a run's "
            "student, run `libkd-sdk benchmark --json` there, and keep its output"
        )
    return found

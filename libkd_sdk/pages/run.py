"""The report of a run: `trainer.findings` as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.caveats import FEWEST, reach
from trainer.findings import Findings, Sample, Stage
from trainer.units import duration, size

from .charts import axes, colour, drawing, rgb
from .page import ALWAYS_THE_LARGEST, Cell, Tile, millions, percent, render, thumbnail
from .reliability import FEW, diagrams

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

MANY_CLASSES = 20
"""With more classes, the confusion is drawn without numbers, and lists show only their worst rows first."""
WORST = 15
SKIPPED = 100

Row = list[str | Cell]


def run_report(run: Findings) -> str:
    """Return the page of a run whose student is finished."""
    return render(
        "run.html",
        title=f"Report: {run.run}",
        source=", ".join(Path(name).name for name in run.data),
        teachers=", ".join(stage.name for stage in run.stages if stage.kind == "teacher"),
        classes=len(run.labels),
        tiles=_tiles(run),
        accuracy=_accuracy(run),
        costs=_costs(run),
        stored=run.store_bytes is not None,
        stages=[(stage.title, name) for stage, name in zip(run.stages, _colours(run).values(), strict=True)],
        curves=_curves(run),
        few=_few(run),
        fewest=FEWEST,
        class_columns=_class_columns(run),
        class_rows=_class_rows(run),
        many=len(run.labels) > MANY_CLASSES,
        worst=WORST,
        labels=run.labels,
        confused_enough=bool((run.confusion.sum(1) >= FEWEST).any()),
        confusion=_confusion_rows(run) if len(run.labels) <= MANY_CLASSES else [],
        confusion_image=_confusion_image(run) if len(run.labels) > MANY_CLASSES else None,
        confused=_confused_pairs(run),
        reliability=diagrams(run),
        caveats=run.caveats,
        test_images=int(run.confusion.sum()),
        samples=[_card(run, sample) for sample in run.samples],
        splits=[(name, f"{count:,}") for name, count in run.images.items()],
        skipped=len(run.skipped),
        reasons=run.skipped[:SKIPPED],
        recipe=run.recipe,
        versions=run.versions.items(),
    )


class Few(NamedTuple):
    """The extent to which the test rests on few images.

    Attributes:
        classes: number of classes with fewer than `limit` test images.
        every: whether that is so for every class.
        step: by how many points one image moves the accuracy of the smallest class that has images.
    """

    limit: int
    classes: int
    every: bool
    smallest: int
    step: str


def _few(run: Findings) -> Few:
    counts = run.confusion.sum(1)
    smallest = int(counts[counts > 0].min(initial=counts.max()))
    classes = int((counts < FEW).sum())
    return Few(FEW, classes, classes == len(counts), smallest, f"{100 / max(1, smallest):.3g}")


def _of_kind(run: Findings, kind: str) -> list[Stage]:
    return [stage for stage in run.stages if stage.kind == kind]


def _test_top1(stage: Stage) -> float:
    return stage.results["test"].top1


def _tiles(run: Findings) -> list[Tile]:
    (student,) = _of_kind(run, "student")
    best = max(_of_kind(run, "teacher"), key=_test_top1)
    top1, count = _test_top1(student), int(run.confusion.sum())
    chance = reach(top1, count)
    note = (
        f"{count:,} test images, ±\u00a0{100 * chance:.1f}\u00a0points (95%); "
        f"{ALWAYS_THE_LARGEST}: {percent(run.majority['test'])}"
    )
    tiles = [Tile("Student, test top-1", percent(top1), note)]
    for plain in _of_kind(run, "plain"):
        gain = 100 * (top1 - _test_top1(plain))
        both = 100 * math.hypot(chance, reach(_test_top1(plain), count))
        note = f"over the same student without teachers, {percent(_test_top1(plain))}; one seed" + (
            f"; chance alone reaches ±\u00a0{both:.1f}" if abs(gain) < both else ""
        )
        tiles.append(Tile("Gain by its teachers", f"{gain:+.1f} points", note))
    return [
        *tiles,
        Tile("Best teacher, test top-1", percent(_test_top1(best)), f"{best.name}, {millions(best.parameters)}"),
        Tile("Student, parameters", millions(student.parameters), f"{size(student.bytes)} on disk"),
        Tile("Calibration error", percent(run.after.ece), _temperature(run)),
    ]


def _temperature(run: Findings) -> str:
    if run.temperature == 1:
        return "without a temperature: the validation images do not show that one helps"
    return f"{percent(run.before.ece)} before its temperature"


def _accuracy(run: Findings) -> list[Row]:
    """Rows of a name, the accuracies first, so that a narrow screen shows them."""
    stages: list[Row] = [
        [
            Cell(stage.title, note=stage.model),
            Cell(percent(stage.results["test"].top1), strong=True),
            percent(stage.results["validation"].top1),
            percent(stage.results["test"].ece),
            f"{stage.results['test'].nll:.3f}",
            millions(stage.parameters),
        ]
        for stage in run.stages
    ]
    baseline = [percent(run.majority["test"]), percent(run.majority["validation"])]
    return [*stages, [ALWAYS_THE_LARGEST, *baseline, "", "", ""]]


def _costs(run: Findings) -> list[Row]:
    seconds = sum(stage.seconds for stage in run.stages) + (run.store_seconds or 0)
    disk = sum(stage.bytes for stage in run.stages) + (run.store_bytes or 0)

    def took(time: float) -> Cell:
        return Cell(duration(time), share=time / max(1e-9, seconds))

    def stored(count: int) -> Cell:
        return Cell(size(count), share=count / max(1, disk), colour="purple")

    rows: list[Row] = [[stage.title, took(stage.seconds), stored(stage.bytes)] for stage in run.stages]
    if run.store_bytes is not None:
        filled = took(run.store_seconds) if run.store_seconds else "not measured"
        rows.append([f"stored logits of the teachers ({run.mode})", filled, stored(run.store_bytes)])
    rows.append([Cell("sum", note="stages side by side take less", strong=True), duration(seconds), size(disk)])
    return rows


def _colours(run: Findings) -> dict[str, str]:
    """Return the colour of every stage, which is the same in all parts of the page."""
    teachers = ("orange", "green", "purple", "yellow")
    found = {stage.stage: teachers[i % len(teachers)] for i, stage in enumerate(_of_kind(run, "teacher"))}
    fixed = {"student": "blue", "plain": "grey"}
    return {stage.stage: found.get(stage.stage) or fixed[stage.kind] for stage in run.stages}


def _curves(run: Findings) -> list[tuple[str, Markup]]:
    colours = _colours(run)

    def chart(values_of: str, name: str, unit: str, factor: float = 1) -> tuple[str, Markup]:
        def draw(canvas: Figure) -> None:
            from matplotlib.ticker import MaxNLocator

            plot = axes(canvas, "epoch", unit)
            for stage in run.stages:
                values = factor * np.array(stage.curve[values_of])
                epochs = np.arange(1, len(values) + 1)
                dashes = {"student": "-", "plain": "-."}.get(stage.kind, "--")
                dots = "o" if len(values) == 1 else ""
                plot.plot(epochs, values, dashes, marker=dots, color=colour(colours[stage.stage]), linewidth=1.6)
            plot.xaxis.set_major_locator(MaxNLocator(6, integer=True))

        return name, drawing(draw, f"{name} by epoch")

    return [
        chart("validation_top1", "Validation top-1", "top-1 (%)", 100),
        chart("loss", "Training loss", "loss (nats)"),
        chart("lr", "Learning rate at the end of the epoch", "learning rate"),
    ]


def _class_columns(run: Findings) -> list[str]:
    return ["class", "student", *(stage.name for stage in _of_kind(run, "teacher")), "test images"]


def _class_rows(run: Findings) -> list[Row]:
    (student,), colours, counts = _of_kind(run, "student"), _colours(run), run.confusion.sum(1)
    nets = [student, *_of_kind(run, "teacher")]
    order = np.argsort(run.class_accuracy[student.stage], kind="stable")  # NaN comes last
    numbered = len(run.labels) > MANY_CLASSES

    def share(stage: Stage, index: int) -> Cell:
        found, count = float(run.class_accuracy[stage.stage][index]), int(counts[index])
        if 0 < count < FEWEST:
            return Cell(f"{round(found * count)} of {count}")
        return Cell(percent(found), share=found, colour=colours[stage.stage], few=bool(counts[index] < FEW))

    return [
        [
            Cell(run.labels[index], note=f"no. {index}" if numbered else ""),
            *(share(stage, index) for stage in nets),
            f"{counts[index]:,}",
        ]
        for index in order
    ]


class Confused(NamedTuple):
    """One true class in the confusion: how many images it has, and a cell for each answer as text and colour."""

    label: str
    images: str
    few: bool
    cells: list[tuple[str, str]]


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each row's shares of its sum."""
    shares: NDArray[np.float64] = counts / np.maximum(1, counts.sum(1, keepdims=True))
    return shares


def _confusion_rows(run: Findings) -> list[Confused]:
    shares, totals = _shares(run.confusion), run.confusion.sum(1)
    return [
        Confused(
            label,
            f"{totals[true]:,}",
            bool(totals[true] < FEW),
            [
                _confusion_cell(int(count), float(share), true == answer, bool(totals[true] < FEW))
                for answer, (count, share) in enumerate(zip(run.confusion[true], shares[true], strict=True))
            ],
        )
        for true, label in enumerate(run.labels)
    ]


def _confusion_cell(count: int, share: float, right: bool, few: bool) -> tuple[str, str]:
    if not count:
        return "", ""
    strength = (50 if right else 70) * math.sqrt(share) * _strength(few)  # errors are small shares
    return f"{count:,}", f"color-mix(in srgb,var(--{'blue' if right else 'orange'}) {strength:.0f}%,var(--panel))"


def _strength(few: bool) -> float:
    return 0.4 if few else 1.0


def _confusion_image(run: Findings) -> Markup:
    shares, classes = _shares(run.confusion), len(run.labels)
    strengths = np.where(run.confusion.sum(1, keepdims=True) < FEW, _strength(True), _strength(False))
    cells = np.zeros((classes, classes, 4))
    cells[..., :3] = rgb("orange")
    cells[np.eye(classes, dtype=bool), :3] = rgb("blue")
    cells[..., 3] = np.sqrt(shares) * strengths  # errors are small shares

    def draw(canvas: Figure) -> None:
        plot = axes(canvas, "answer", "true class")
        plot.grid(visible=False)
        plot.imshow(cells, interpolation="none")

    return drawing(draw, "confusion of the classes", (4.2, 4.0))


def _confused_pairs(run: Findings) -> list[Row]:
    shares, errors = _shares(run.confusion), run.confusion * (1 - np.eye(len(run.labels), dtype=np.int64))
    most = np.argsort(errors, axis=None, kind="stable")[::-1][:WORST]
    pairs = [divmod(int(place), len(run.labels)) for place in most]
    return [
        [run.labels[true], run.labels[answer], f"{errors[true, answer]:,}", percent(shares[true, answer])]
        for true, answer in pairs
        if errors[true, answer]
    ]


class Card(NamedTuple):
    """A sample: its image as an address, and a row of name, sign, answer and confidence for each net."""

    name: str
    image: str
    label: str
    answers: Sequence[tuple[str, bool, str, str]]


def _card(run: Findings, sample: Sample) -> Card:
    answers = []
    for stage in run.stages:
        answer, confidence = sample.answers[stage.stage]
        name = "without teachers" if stage.kind == "plain" else stage.name
        answers.append((name, answer == sample.label, run.labels[answer], f"{confidence:.0%}"))
    return Card(sample.name, thumbnail(sample.pixels), run.labels[sample.label], answers)

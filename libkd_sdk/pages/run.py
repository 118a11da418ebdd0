"""What the report of a run says: `trainer.findings` as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer.findings import Findings, Reliability, Sample, Stage
from trainer.units import duration, size

from .page import (
    COLOURS,
    Html,
    Section,
    axes,
    bar,
    details,
    drawing,
    figure,
    figures,
    legend,
    page,
    paragraph,
    percent,
    picture,
    table,
    tag,
    tiles,
    wide,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MANY_CLASSES = 20
"""Above so many, a confusion is a picture without numbers, and lists are cut to their worst."""
WORST = 15


def run_report(run: Findings) -> str:
    """The page of a run whose student is finished, with the student finished."""
    source = ", ".join(Path(name).name for name in run.data)
    teachers = ", ".join(stage.name for stage in run.stages if stage.kind == "teacher")
    introduction = [
        paragraph(f"A small vision transformer, taught by {teachers} on {source}: {len(run.labels)} classes."),
        _summary(run),
    ]
    return page(
        f"Report: {run.run}",
        introduction,
        [
            Section("Accuracy of every stage", _accuracy(run)),
            Section("Time and storage", _costs(run)),
            Section("Curves", _curves(run)),
            Section("Accuracy of every class", _classes(run)),
            Section("Confusion", _confusion(run)),
            Section("Reliability", _reliability(run)),
            Section("Sample predictions", _samples(run)),
            Section("Data", _data(run)),
            Section("Recipe", [details("all values", tag("pre", run.recipe))]),
            Section("Versions", [table(["", "version"], run.versions.items(), texts=2)]),
        ],
    )


def _of_kind(run: Findings, kind: str) -> list[Stage]:
    return [stage for stage in run.stages if stage.kind == kind]


def _test_top1(stage: Stage) -> float:
    return stage.results["test"]["top1"]


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"


def _summary(run: Findings) -> Html:
    (student,) = _of_kind(run, "student")
    best = max(_of_kind(run, "teacher"), key=_test_top1)
    top1, count = _test_top1(student), int(run.confusion.sum())
    chance = 1.96 * math.sqrt(top1 * (1 - top1) / count)
    facts = [
        ("Student, test top-1", percent(top1), f"{count:,} test pictures, ±\u00a0{100 * chance:.1f}\u00a0points (95%)")
    ]
    for plain in _of_kind(run, "plain"):
        gain = 100 * (top1 - _test_top1(plain))
        note = f"over the same student without teachers, {percent(_test_top1(plain))}; one seed"
        facts.append(("Gain by its teachers", f"{gain:+.1f} points", note))
    return tiles(
        [
            *facts,
            ("Best teacher, test top-1", percent(_test_top1(best)), f"{best.name}, {_millions(best.parameters)}"),
            ("Student, parameters", _millions(student.parameters), f"{size(student.bytes)} on disk"),
            ("Calibration error", percent(run.after.ece), f"{percent(run.before.ece)} before its temperature"),
        ]
    )


def _accuracy(run: Findings) -> list[Html]:
    columns = ["", "model", "parameters", "validation top-1", "test top-1", "log loss", "calibration error"]
    rows = []
    for stage in run.stages:
        test = stage.results["test"]
        rows.append(
            [
                _title(stage),
                stage.model,
                _millions(stage.parameters),
                percent(stage.results["validation"]["top1"]),
                tag("b", percent(test["top1"])),
                f"{test['nll']:.3f}",
                percent(test["ece"]),
            ]
        )
    return [table(columns, rows, texts=2), paragraph("Log loss and calibration error are of the test pictures.")]


def _title(stage: Stage) -> str:
    return {"student": "student", "plain": "student without teachers"}.get(stage.kind, f"teacher {stage.name}")


def _costs(run: Findings) -> list[Html]:
    seconds = sum(stage.seconds for stage in run.stages) + (run.store_seconds or 0)
    disk = sum(stage.bytes for stage in run.stages) + (run.store_bytes or 0)

    def took(time: float) -> Html:
        return bar(duration(time), time / max(1e-9, seconds))

    def stored(count: int) -> Html:
        return bar(size(count), count / max(1, disk), "purple")

    rows = [[_title(stage), took(stage.seconds), stored(stage.bytes)] for stage in run.stages]
    if run.store_bytes is not None:
        filled = took(run.store_seconds) if run.store_seconds else "not measured"
        rows.append([f"stored answers of the teachers ({run.mode})", filled, stored(run.store_bytes)])
    rows.append([tag("b", "together"), duration(seconds), size(disk)])
    online = "Nothing is stored: the teachers answered while the student learned, and its time has theirs in it."
    return [
        table(["", "time", "on disk"], rows),
        *([paragraph(online)] if run.store_bytes is None else []),
    ]


def _colours(run: Findings) -> dict[str, str]:
    """Of every stage: what a net is drawn in, wherever it is."""
    teachers = ("orange", "green", "purple", "yellow")
    found = {stage.stage: teachers[i % len(teachers)] for i, stage in enumerate(_of_kind(run, "teacher"))}
    fixed = {"student": "blue", "plain": "grey"}
    return {stage.stage: found.get(stage.stage) or fixed[stage.kind] for stage in run.stages}


def _curves(run: Findings) -> list[Html]:
    from matplotlib.ticker import MaxNLocator

    colours = _colours(run)

    def chart(figure_of: str, name: str, unit: str, factor: float = 1) -> Html:
        def draw(canvas: Figure) -> None:
            plot = axes(canvas, "epoch", unit)
            for stage in run.stages:
                values = factor * np.array(stage.curve[figure_of])
                epochs = np.arange(1, len(values) + 1)
                dashes = {"student": "-", "plain": "-."}.get(stage.kind, "--")
                dots = "o" if len(values) == 1 else ""
                colour = COLOURS[colours[stage.stage]][0]
                plot.plot(epochs, values, dashes, marker=dots, color=colour, linewidth=1.6)
            plot.xaxis.set_major_locator(MaxNLocator(integer=True))

        return figure(drawing(draw, f"{name} by epoch"), name)

    return [
        legend((_title(stage), colours[stage.stage]) for stage in run.stages),
        figures(
            chart("validation_top1", "Validation top-1", "top-1 (%)", 100),
            chart("loss", "Training loss", "loss (nats)"),
            chart("lr", "Learning rate at the end of the epoch", "learning rate"),
        ),
        paragraph(
            "The student's loss has a term for each teacher, the others' is of labels alone: compare its course, not "
            "its height."
        ),
    ]


def _classes(run: Findings) -> list[Html]:
    (student,), teachers, colours = _of_kind(run, "student"), _of_kind(run, "teacher"), _colours(run)
    own, total = run.class_accuracy[student.stage], run.confusion.sum(1)
    many = len(run.labels) > MANY_CLASSES
    columns = [*(["no."] if many else []), "class", "pictures", "student", *(stage.name for stage in teachers)]
    rows = [
        [
            *([str(number)] if many else []),
            run.labels[number],
            f"{total[number]:,}",
            bar(percent(own[number]), own[number]),
            *(
                bar(percent(share[number]), share[number], colours[stage.stage])
                for stage in teachers
                for share in [run.class_accuracy[stage.stage]]
            ),
        ]
        for number in np.argsort(own, kind="stable")  # NaN comes last
    ]
    introduction = paragraph("Share of each class's test pictures that a net gets right, the student's worst first.")
    texts = 1 + many
    if not many:
        return [introduction, table(columns, rows, texts=texts)]
    everything = details(f"all {len(rows)} classes", table(columns, rows, texts=texts))
    return [introduction, table(columns, rows[:WORST], texts=texts), everything]


def _confusion(run: Findings) -> list[Html]:
    said = "What the student takes the test pictures for. Blue is right, orange wrong; stronger is more of its class."
    if len(run.labels) <= MANY_CLASSES:
        return [paragraph(said), wide(_confusion_table(run))]
    numbers = paragraph("The numbers of the classes are in the list above. Most often confused are:")
    return [paragraph(said), _confusion_image(run), numbers, _confused_pairs(run)]


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each row's sum."""
    shares: NDArray[np.float64] = counts / np.maximum(1, counts.sum(1, keepdims=True))
    return shares


def _confusion_table(run: Findings) -> Html:
    corner = tag("td", "true class ↓", Html("<br>"), "answer →")
    head = tag("tr", corner, *(tag("th", label, scope="col") for label in run.labels))
    shares = _shares(run.confusion)
    rows = []
    for true, label in enumerate(run.labels):
        cells = (
            _cell(int(run.confusion[true, answer]), float(shares[true, answer]), true == answer)
            for answer in range(len(run.labels))
        )
        rows.append(tag("tr", tag("th", label, scope="row"), *cells))
    return tag("table", tag("thead", head), tag("tbody", *rows), class_="confusion")


def _cell(count: int, share: float, right: bool) -> Html:
    if not count:
        return tag("td")
    strength = (50 if right else 70) * math.sqrt(share)  # errors are small shares
    colour = f"color-mix(in srgb,var(--{'blue' if right else 'orange'}) {strength:.0f}%,var(--panel))"
    return tag("td", f"{count:,}", style=f"background:{colour}")


def _confusion_image(run: Findings) -> Html:
    shares, classes = _shares(run.confusion), len(run.labels)
    cells = np.zeros((classes, classes, 4))
    cells[..., :3] = _rgb("orange")
    cells[np.eye(classes, dtype=bool), :3] = _rgb("blue")
    cells[..., 3] = np.sqrt(shares)  # errors are small shares

    def draw(canvas: Figure) -> None:
        plot = axes(canvas, "answer", "true class")
        plot.grid(visible=False)
        plot.imshow(cells, interpolation="none")

    return figure(drawing(draw, "confusion of the classes", (6, 5.6)), "Share of each true class")


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(COLOURS[colour][0][place : place + 2], 16) / 255 for place in (1, 3, 5))


def _confused_pairs(run: Findings) -> Html:
    shares, errors = _shares(run.confusion), run.confusion * (1 - np.eye(len(run.labels), dtype=np.int64))
    most = np.argsort(errors, axis=None, kind="stable")[::-1][:WORST]
    pairs = [divmod(int(place), len(run.labels)) for place in most]
    rows = [
        [run.labels[true], run.labels[answer], f"{errors[true, answer]:,}", percent(shares[true, answer])]
        for true, answer in pairs
        if errors[true, answer]
    ]
    return table(["true class", "taken for", "pictures", "of the class"], rows, texts=2)


def _reliability(run: Findings) -> list[Html]:
    both = (
        (run.before, "Before its temperature was fitted"),
        (run.after, f"After: temperature {run.temperature:.2f}"),
    )
    drawn = (
        figure(
            drawing(partial(_draw_reliability, bins=bins), name, (3.9, 3.7)),
            f"{name}; calibration error {percent(bins.ece)}",
        )
        for bins, name in both
    )
    return [
        paragraph(
            "Of the test pictures about which the student is so sure, how many it gets right: on the dashed line it is "
            "as sure as it should be. The temperature was fitted on the validation pictures."
        ),
        legend([("accuracy", "blue"), ("mean confidence of the bin", "orange")]),
        figures(*drawn),
    ]


def _draw_reliability(canvas: Figure, bins: Reliability) -> None:
    upper, lower = canvas.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width = 1 / len(bins.count)
    middles, filled = (np.arange(len(bins.count)) + 0.5) * width, bins.count > 0
    blue, orange, faint = (COLOURS[name][0] for name in ("blue", "orange", "faint"))
    upper.plot([0, 1], [0, 1], "--", color=faint, linewidth=1)
    upper.bar(middles[filled], bins.accuracy[filled], 0.88 * width, color=blue, alpha=0.75)
    reach = 0.44 * width
    upper.hlines(bins.confidence[filled], middles[filled] - reach, middles[filled] + reach, color=orange, linewidth=2)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    lower.bar(middles, 100 * bins.count / max(1, bins.count.sum()), 0.88 * width, color=COLOURS["grey"][0])
    lower.set(xlabel="confidence", ylabel="pictures (%)")


def _samples(run: Findings) -> list[Html]:
    said = (
        "Test pictures, as many wrong as right where there are enough, otherwise chosen by nothing but their names; "
        "with their class, each net's answer and how sure it is of it."
    )
    names = [(stage.stage, stage.name) for stage in (*_of_kind(run, "teacher"), *_of_kind(run, "student"))]
    return [paragraph(said), tag("div", *(_card(run.labels, names, sample) for sample in run.samples), class_="cards")]


def _card(labels: Sequence[str], names: Sequence[tuple[str, str]], sample: Sample) -> Html:
    rows = []
    for stage, name in names:
        answer, confidence = sample.answers[stage]
        kind, sign = ("right", "✓") if answer == sample.label else ("wrong", "✗")
        said = tag("td", f"{sign} {labels[answer]}", class_=kind)
        rows.append(tag("tr", tag("td", name), said, tag("td", f"{confidence:.0%}", class_="number")))
    head = tag("header", picture(sample.pixels, sample.name), tag("b", labels[sample.label]))
    return tag("div", head, tag("table", *rows), title=sample.name)


def _data(run: Findings) -> list[Html]:
    parts = [table(["split", "pictures"], [[name, f"{count:,}"] for name, count in run.pictures.items()])]
    if run.skipped:
        shown = [tag("li", reason) for reason in run.skipped[:100]]
        more = [paragraph(f"and {len(run.skipped) - len(shown):,} more")] if len(run.skipped) > len(shown) else []
        parts.append(details(f"{len(run.skipped):,} pictures skipped", tag("ul", *shown), *more))
    else:
        parts.append(paragraph("No picture was skipped."))
    return parts

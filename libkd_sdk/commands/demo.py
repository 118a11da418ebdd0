"""The command `libkd-sdk demo`."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from runtimes.engines import RUNNABLE
from sdk import benchmark
from sdk.bundle import Bundle
from sdk.bundle.manifest import Proof
from sdk.classifier import Classifier
from sdk.files import write_whole

from ..options import DeviceOption, MeasuredThreadsOption, SeedOption, training_extra
from ..output import Bars, JsonOption, QuietOption, percent, remark, show_json, show_table
from .export import export_student

if TYPE_CHECKING:
    from trainer.data import Dataset
    from trainer.records import NetRecord
    from trainer.run import Run

DATA = "fashion-mnist-mini"
SHOWN_IMAGES = 5
PLAIN_STUDENT, DISTILLED_STUDENT = "student, without teachers", "student, distilled"


class NetFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A net, the seconds of its training, and its quality on the test images."""

    parameters: int
    seconds: float
    images: int
    top1: float
    nll: float
    ece: float


class BundleFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle, its proof, and its latency with one image at a time on `threads` threads."""

    path: str
    precision: str
    size_bytes: int
    proof: Proof | None
    threads: int
    p50_ms: float
    p95_ms: float


class DemoAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a bundle for an image."""

    label: str | None
    score: float


class DemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the demo, as in `demo.json`.

    Attributes:
        data: the name of the dataset.
        images: the number of images in each split.
        seed: the recipe's seed.
        accuracy: the figures of each net by its title.
        bundles: the figures of each engine's bundle.
        predictions: for each engine, the answer for each shown image by the image's class.
        seconds: how long the demo took.
    """

    data: str
    images: dict[str, int]
    seed: int
    accuracy: dict[str, NetFigures]
    bundles: dict[str, BundleFigures]
    predictions: dict[str, dict[str, DemoAnswer]]
    seconds: float


def demo(
    out: Annotated[Path, typer.Option("--out", help="The folder of everything that the demo makes.")] = Path(
        "libkd-demo"
    ),
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    threads: MeasuredThreadsOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Do the whole job on real images that come with the package, on a CPU, in minutes.

    The demo trains a convolution and an involution teacher on 8,000 images of clothes, stores their logits, distils a
    vision transformer from them, and trains the same student without teachers to compare. It exports the student to
    every engine that runs here, proves each bundle and measures its speed. When it is run again, it trains only what
    is missing.

    Example: libkd-sdk demo --out libkd-demo/
    """
    result = run_demo(out, DATA, "demo", seed, device, threads)
    if json:
        show_json(msgspec.to_builtins(result))
    else:
        show(result, out)


def run_demo(
    out: Path, data: str, recipe: str, seed: int | None = None, device: str = "auto", threads: int | None = None
) -> DemoResult:
    """Train, export and measure in the folder `out`. Return the result, which is also kept in `demo.json`."""
    started = time.perf_counter()
    with training_extra():
        from trainer.arms import own_arm, plain_arm
        from trainer.estimate import tell_estimate
        from trainer.pipeline import train_arms, train_teachers
        from trainer.records import write_record
        from trainer.run import Source
        from trainer.start import RunRequest, at_work

    source = Source((data,))
    request = RunRequest(out=out / "run", source=source, recipe=recipe, seed=seed, device=device, threads=threads)
    remark(f"Two teachers, their stored logits, two students, {len(RUNNABLE)} bundles: 6 to 10 minutes on two cores.")
    with Bars() as bars, at_work(request, bars) as job:
        run, dataset = job.run, job.data
        tell_estimate([job], lambda recipe: [own_arm(recipe), plain_arm(recipe)])
        train_teachers(job)
        train_arms(job, [own_arm(run.recipe), plain_arm(run.recipe)])
        bundles = [
            export_student(run.folder, dataset.test, target, out / "bundles" / target, bars) for target in RUNNABLE
        ]
        images = _write_images(dataset, out / "images")
        bars.begin("predicting and timing", 1)
        predictions = {bundle.target: _predict(bundle, images) for bundle in bundles}
        timings = {timing.target: timing for timing in benchmark.measure(bundles, bare=False)}
        bars.end()
    result = DemoResult(
        data=Path(data).name,
        images={"train": len(dataset.train), "validation": len(dataset.validation), "test": len(dataset.test)},
        seed=run.recipe.seed,
        accuracy=_accuracy(run),
        bundles={bundle.target: _bundle_figures(bundle, timings[bundle.target]) for bundle in bundles},
        predictions=predictions,
        seconds=time.perf_counter() - started,
    )
    write_record(out / "demo.json", result)
    return result


def _write_images(data: Dataset, folder: Path) -> list[Path]:
    """Write the first test image of some classes as PNG files that are named after their class."""
    from PIL import Image

    paths = []
    for index in range(0, len(data.labels), max(1, len(data.labels) // SHOWN_IMAGES)):
        row = int((data.test.labels == index).nonzero()[0])
        path = folder / f"{data.labels[index]}.png"
        encoded = io.BytesIO()
        Image.fromarray(data.test.pixels()[row].numpy()).save(encoded, "PNG")
        write_whole(path, encoded.getvalue())
        paths.append(path)
    return paths


def _predict(bundle: Bundle, images: list[Path]) -> dict[str, DemoAnswer]:
    with Classifier(bundle.path) as classifier:
        predictions = classifier.predict_batch(images)
    return {path.stem: DemoAnswer(label=it.label, score=it.score) for path, it in zip(images, predictions, strict=True)}


def _accuracy(run: Run) -> dict[str, NetFigures]:
    """Return the figures of every net on the test images, in the order in which people ask for them."""
    from trainer.run import PLAIN

    records: dict[str, NetRecord] = {
        **{f"teacher {name}": run.teacher_record(name) for name in run.recipe.teachers},
        PLAIN_STUDENT: run.student_record(PLAIN),
        DISTILLED_STUDENT: run.student_record(),
    }
    return {title: _figures(record) for title, record in records.items()}


def _figures(record: NetRecord) -> NetFigures:
    score = record.results["test"]
    return NetFigures(
        images=score.images,
        top1=score.top1,
        nll=score.nll,
        ece=score.ece,
        parameters=record.parameters,
        seconds=record.seconds,
    )


def _bundle_figures(bundle: Bundle, timing: benchmark.Measurement) -> BundleFigures:
    return BundleFigures(
        path=str(bundle.path),
        precision=bundle.precision,
        size_bytes=bundle.size_bytes,
        proof=bundle.manifest.proof,
        threads=timing.threads,
        p50_ms=timing.speed.p50_ms,
        p95_ms=timing.speed.p95_ms,
    )


def show(result: DemoResult, out: Path) -> None:
    """Show the nets, the bundles and the predictions as tables, and say what can be done next."""
    show_table(
        f"{result.data}: {result.images['train']:,} training images, judged by {result.images['test']:,} others",
        ["", "parameters", "top-1", "calib. error", "trained in"],
        [
            [title, f"{it.parameters / 1e6:.2f} M", percent(it.top1), percent(it.ece), f"{it.seconds:.0f} s"]
            for title, it in result.accuracy.items()
        ],
    )
    threads = max(bundle.threads for bundle in result.bundles.values())
    show_table(
        f"bundles, on {threads} threads, one image at a time; parity: the largest difference from PyTorch",
        ["", "size", "parity", "top-1", "latency p50", "p95"],
        [_bundle_row(target, bundle) for target, bundle in result.bundles.items()],
    )
    first, *_ = result.predictions
    names = list(result.predictions[first])
    show_table(
        "images, and what each engine calls them",
        ["", *result.predictions],
        [[name, *(_shown(answers[name]) for answers in result.predictions.values())] for name in names],
    )
    gain = result.accuracy[DISTILLED_STUDENT].top1 - result.accuracy[PLAIN_STUDENT].top1
    remark(
        f"With this seed, distillation changed the student's top-1 by {100 * gain:+.1f} points. "
        f"It took {result.seconds / 60:.1f} minutes."
    )
    remark(f'next: libkd-sdk predict {out}/bundles/{first} "{out}/images/{names[0]}.png"')


def _bundle_row(target: str, bundle: BundleFigures) -> list[str]:
    return [
        f"{target} {bundle.precision}",
        f"{bundle.size_bytes / 1e6:.2f} MB",
        "-" if bundle.proof is None else f"{bundle.proof.max_abs_difference:.0e}",
        percent(None if bundle.proof is None else bundle.proof.top1),
        f"{bundle.p50_ms:.2f} ms",
        f"{bundle.p95_ms:.2f} ms",
    ]


def _shown(answer: DemoAnswer) -> str:
    return f"{answer.label} {answer.score:.1%}"

"""`libkd-sdk demo`"""

from __future__ import annotations

import json as json_module
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from runtimes.engines import ENGINES
from sdk import benchmark
from sdk.bundle import Bundle
from sdk.classifier import Classifier

from ..options import DeviceOption, SeedOption, training_extra
from ..output import Bars, JsonOption, percent, remark, show_json, show_table
from .export import export_student

if TYPE_CHECKING:
    from trainer.data import Dataset
    from trainer.run import Run

DATA = "fashion-mnist-mini"
SHOWN_PICTURES = 5


def demo(
    out: Annotated[Path, typer.Option("--out", help="A folder for all that it makes.")] = Path("libkd-demo"),
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """The whole job on real pictures that come along, on a CPU, in minutes.

    Trains a convolution and an involution teacher on 8,000 pictures of clothes, stores their answers, distils a
    vision transformer from them, trains the same one without teachers to compare with, exports it to three engines,
    proves and times each. Interrupted or run again, it trains what is missing.

    Example: libkd-sdk demo --out libkd-demo/
    """
    result = run_demo(out, DATA, "demo", seed, device)
    if json:
        show_json(result)
    else:
        show(result, out)


def run_demo(out: Path, data: str, recipe: str, seed: int | None = None, device: str = "auto") -> dict[str, Any]:
    """What `demo.json` will hold: figures of all nets and bundles, and what they call a few pictures."""
    started = time.perf_counter()
    with training_extra():
        from trainer.arms import plain_arm
        from trainer.pipeline import run_pipeline, train_arm
        from trainer.run import Source
        from trainer.start import Request, prepare

    request = Request(out=out / "run", source=Source((data,)), recipe=recipe, seed=seed, device=device)
    remark("Two teachers, their stored answers, two students, three bundles: 6 to 12 minutes on two cores.")
    with Bars() as bars:
        job = prepare(request, bars)
        run, dataset = job.run, job.data
        run_pipeline(job)
        train_arm(job, plain_arm(run.recipe))
        bundles = []
        for target in ENGINES:
            place = out / "bundles" / target
            bundles.append(export_student(run.folder, dataset.test, target, place, bars))
        pictures = _write_pictures(dataset, out / "pictures")
        bars.begin("predicting and timing", 1)
        predictions = {bundle.target: _predict(bundle, pictures) for bundle in bundles}
        timings = {timing.target: timing for timing in benchmark.measure(bundles, bare=False)}
        bars.end()
    result = {
        "data": Path(data).name,
        "pictures": {"train": len(dataset.train), "validation": len(dataset.validation), "test": len(dataset.test)},
        "seed": run.recipe.seed,
        "accuracy": _accuracy(run),
        "bundles": {bundle.target: _bundle_facts(bundle, timings[bundle.target]) for bundle in bundles},
        "predictions": predictions,
        "seconds": time.perf_counter() - started,
    }
    (out / "demo.json").write_text(json_module.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _write_pictures(data: Dataset, folder: Path) -> list[Path]:
    """The first test picture of some classes as PNG files named by their class."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(0, len(data.labels), max(1, len(data.labels) // SHOWN_PICTURES)):
        row = int((data.test.labels == index).nonzero()[0])
        path = folder / f"{data.labels[index]}.png"
        Image.fromarray(data.test.pixels()[row].numpy()).save(path)
        paths.append(path)
    return paths


def _predict(bundle: Bundle, pictures: list[Path]) -> dict[str, dict[str, Any]]:
    with Classifier(bundle.path) as classifier:
        predictions = classifier.predict_batch(pictures)
    return {path.stem: {"label": it.label, "score": it.score} for path, it in zip(pictures, predictions, strict=True)}


def _accuracy(run: Run) -> dict[str, dict[str, Any]]:
    """The figures of every net on the test pictures, in the order in which people ask for them."""
    from trainer.run import PLAIN

    records = {
        **{f"teacher {name}": run.teacher_record(name) for name in run.recipe.teachers},
        "student, without teachers": run.student_record(PLAIN),
        "student, distilled": run.student_record(),
    }
    return {
        title: {
            "parameters": record.parameters,
            "seconds": record.seconds,
            **msgspec.to_builtins(record.results["test"]),
        }
        for title, record in records.items()
    }


def _bundle_facts(bundle: Bundle, timing: benchmark.Measurement) -> dict[str, Any]:
    return {
        "path": str(bundle.path),
        "precision": bundle.precision,
        "size_bytes": bundle.size_bytes,
        "proof": msgspec.to_builtins(bundle.manifest.proof),
        "threads": timing.threads,
        "p50_ms": timing.speed.p50_ms,
        "p95_ms": timing.speed.p95_ms,
    }


def show(result: dict[str, Any], out: Path) -> None:
    """The tables that people look at."""
    counts = result["pictures"]
    rows = [
        [
            title,
            f"{row['parameters'] / 1e6:.2f} M",
            percent(row["top1"]),
            percent(row["ece"]),
            f"{row['seconds']:.0f} s",
        ]
        for title, row in result["accuracy"].items()
    ]
    show_table(
        f"{result['data']}: {counts['train']:,} training pictures, judged by {counts['test']:,} others",
        ["", "parameters", "top-1", "calib. error", "trained in"],
        rows,
    )
    rows = [
        [
            f"{target} {bundle['precision']}",
            f"{bundle['size_bytes'] / 1e6:.2f} MB",
            f"{bundle['proof']['max_abs_difference']:.0e}",
            percent(bundle["proof"]["top1"]),
            f"{bundle['p50_ms']:.2f} ms",
            f"{bundle['p95_ms']:.2f} ms",
        ]
        for target, bundle in result["bundles"].items()
    ]
    threads = {bundle["threads"] for bundle in result["bundles"].values()}
    show_table(
        f"bundles, on {max(threads)} threads, one picture at a time; parity: the largest difference from PyTorch",
        ["", "size", "parity", "top-1", "latency p50", "p95"],
        rows,
    )
    targets = list(result["predictions"])
    rows = [
        [
            name,
            *(
                f"{result['predictions'][target][name]['label']} {result['predictions'][target][name]['score']:.1%}"
                for target in targets
            ),
        ]
        for name in result["predictions"][targets[0]]
    ]
    show_table("pictures, and what each engine calls them", ["", *targets], rows)
    gain = result["accuracy"]["student, distilled"]["top1"] - result["accuracy"]["student, without teachers"]["top1"]
    remark(
        f"With this seed, distillation changed the student's top-1 by {100 * gain:+.1f} points. "
        f"It took {result['seconds'] / 60:.1f} minutes."
    )
    first = next(iter(result["predictions"][targets[0]]))
    remark(f'next: libkd-sdk predict {out}/bundles/onnx "{out}/pictures/{first}.png"')

"""The command `libkd-sdk export`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
import typer

from runtimes.engines import ENGINES
from sdk.bundle import Bundle
from sdk.bundle.keys import read_private
from sdk.errors import UsageError
from sdk.exporting.exporter import CALIBRATION_IMAGES, MAX_DROP
from sdk.exporting.exporter import export as export_module
from sdk.exporting.request import GoldenKind, find_backend, find_lowering
from sdk.images import Pixels, Preprocessing

from ..labels import read_labels
from ..options import RootOption, training_extra
from ..output import Bars, JsonOption, QuietOption, percent, remark, show_facts, show_json

if TYPE_CHECKING:
    from torch import nn

    from trainer.data import Split

TIMM = "timm:"


def one_of(words: Iterable[str]) -> str:
    """Return words as a choice: `a, b or c`."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


TARGETS = one_of(f"{name} ({engine.title})" for name, engine in ENGINES.items())
BACKENDS = list(dict.fromkeys(backend for engine in ENGINES.values() for backend in engine.backends))
PRECISIONS = list(dict.fromkeys(precision for engine in ENGINES.values() for precision in engine.precisions))


def export(
    source: Annotated[
        str,
        typer.Argument(help="The folder of a run, or timm: and the name of a timm model.", metavar="RUN|timm:NAME"),
    ],
    target: Annotated[
        str, typer.Option("--target", autocompletion=lambda: list(ENGINES), help=f"The engine: {TARGETS}.")
    ],
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            autocompletion=lambda: BACKENDS,
            help=f"What an engine with backends delegates to: {one_of(BACKENDS)}, as in --target executorch --backend "
            f"vulkan. The default is {BACKENDS[0]}.",
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option("--precision", autocompletion=lambda: PRECISIONS, help=f"The precision: {one_of(PRECISIONS)}."),
    ] = "fp32",
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", metavar="NAME", help="Export this teacher of the run instead of its student."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The folder of the bundle. The default is RUN/bundles/TARGET, with the name of the teacher before it, "
            "and after it the backend and the precision if they are not the default ones.",
        ),
    ] = None,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            "--calibrate",
            help="Images to calibrate int8 on, given like --data. The default is the training images of the run.",
        ),
    ] = None,
    max_drop: Annotated[
        float,
        typer.Option(
            "--max-drop",
            help="The points of top-1 that may be lost. At int8, layers stay in float until the loss is small enough.",
        ),
    ] = MAX_DROP,
    validation: Annotated[
        list[str] | None,
        typer.Option(
            "--validation", help="Images for the proof, given like --data. The default is the test images of the run."
        ),
    ] = None,
    golden: Annotated[
        str,
        typer.Option("--golden", help="The images that the bundle carries to test itself: blends, pictures or none."),
    ] = "blends",
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", help="The weights of timm:NAME, with timm's names. The default is what timm downloads."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="The labels of timm:NAME in the order of its logits: one a line, a JSON list, or a JSON object "
            "from numbers to labels or from labels to numbers.",
        ),
    ] = None,
    root: RootOption = None,
    sign: Annotated[
        Path | None,
        typer.Option("--sign", help="The private key that signs the bundle, from libkd-sdk keygen."),
    ] = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Export a net of a run, or a timm model: lower it for an engine, prove it, and write a bundle.

    The net is the run's student, or with --teacher one of its teachers. The proof compares the answers of the lowered
    model with those of the trained one. What can't be run here, as for Core ML or a phone's GPU, is compared before it
    is lowered, and unverified on device.

    Example: libkd-sdk export run/ --target openvino --precision int8
    """
    find_lowering(target, precision, backend)  # before any image is read
    if sign:
        read_private(sign)
    if calibrate and precision != "int8":
        raise UsageError("--calibrate: only int8 takes it; leave it out")
    is_run = not source.startswith(TIMM)
    if is_run and (weights or labels):
        raise UsageError("--weights and --labels: a run has its own; leave them out")
    if teacher is not None and not is_run:
        raise UsageError("--teacher: only a run has teachers; leave it out")
    with training_extra():
        from trainer.data import load_labelled, load_sample
        from trainer.start import test_images, training_sample

    with Bars() as bars:
        net = _of_run(Path(source), teacher) if is_run else _of_timm(source, weights, labels)
        input, seen = net.preprocessing.input, None
        if calibrate:
            seen = load_sample(calibrate, CALIBRATION_IMAGES, input, root=root, progress=bars).numpy()
            net.about["calibrated_on"] = _last_names(calibrate)
        elif precision == "int8" and not is_run:
            raise UsageError("int8 needs images to calibrate on; name some by --calibrate")
        proving = load_labelled(validation, net.labels, input, root=root, progress=bars) if validation else None
        if is_run and precision == "int8" and seen is None:
            seen = training_sample(Path(source), CALIBRATION_IMAGES, bars).numpy()
            net.about["calibrated_on"] = f"training images, {_images_of(Path(source))}"
        if is_run and proving is None:
            proving = test_images(Path(source), bars)
        bundle = lower_and_prove(
            net,
            out or _default_place(source, teacher, target, backend, precision),
            bars,
            target=target,
            backend=backend,
            precision=precision,
            validation=proving,
            calibration=seen,
            max_drop=max_drop,
            golden=golden,
            sign=sign,
        )
    _report(bundle, json)


def _default_place(source: str, teacher: str | None, target: str, backend: str | None, precision: str) -> Path:
    chosen = [] if backend in (None, find_backend(target, None)) else [backend]
    name = "-".join([target, *chosen, *([] if precision == "fp32" else [precision])])
    if source.startswith(TIMM):
        return Path(f"{source.removeprefix(TIMM)}-{name}")
    return Path(source) / "bundles" / (name if teacher is None else f"{teacher}-{name}")


@dataclass
class Net:
    """A trained net and what `sdk.export` needs besides it.

    Attributes:
        about: what the manifest says about the model.
    """

    module: nn.Module
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    about: dict[str, Any] = field(default_factory=dict)


def _of_run(folder: Path, teacher: str | None = None) -> Net:
    """Return a net of a run with its labels: the student, or the teacher of this name."""
    from trainer.run import load_student, load_teacher, open_run

    run, trained_on = open_run(folder), _images_of(folder)
    if teacher is None:
        student, labels, preprocessing = load_student(run)
        taught = list(run.student_record().teachers)
        about = {"arch": run.recipe.student.title, "teachers": taught, "trained_on": trained_on}
        return Net(student, labels, preprocessing, about)
    loaded, recipe = load_teacher(run, teacher), run.recipe.teachers[teacher]
    net, preprocessing = loaded.for_images(run.recipe.data.size)
    about = {"arch": recipe.model, "trained_on": trained_on if recipe.training.epochs else None}
    return Net(net, run.data_record().labels, preprocessing, about)


def _images_of(folder: Path) -> str | None:
    """Return the names of the images of a run."""
    from trainer.run import remembered_source

    source = remembered_source(folder)
    return _last_names(source.data) if source else None


def _last_names(places: Sequence[str]) -> str:
    """Return the last parts of some paths, as a manifest can hold them: a path may have bytes that are not UTF-8."""
    return ", ".join(Path(place).name for place in places).encode(errors="replace").decode()


def _of_timm(source: str, weights: Path | None, labels: Path | None) -> Net:
    from trainer.models.published import load_published

    if labels is None:
        raise UsageError("timm:NAME needs --labels, a file with the names of its classes")
    name, names = source.removeprefix(TIMM), read_labels(labels)
    module, preprocessing = load_published(name, weights, len(names))
    return Net(module, names, preprocessing, {"arch": name, "trained_on": None})


def lower_and_prove(
    net: Net,
    out: Path,
    bars: Bars,
    *,
    target: str,
    backend: str | None = None,
    precision: str = "fp32",
    validation: Split | None,
    calibration: Pixels | None = None,
    max_drop: float = MAX_DROP,
    golden: str = "blends",
    sign: Path | None = None,
) -> Bundle:
    """Export a net like `sdk.export`, and draw a bar for each stage."""
    seen = ""

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal seen
        if stage != seen:
            bars.begin(f"{stage} {target}", total)
            seen = stage
        bars.advance_to(done)
        if done == total:
            bars.end()
            seen = ""

    return export_module(
        net.module,
        target=target,
        backend=backend,
        precision=precision,
        out=out,
        labels=net.labels,
        preprocessing=net.preprocessing,
        calibration=calibration,
        validation=None if validation is None else (validation.pixels().numpy(), validation.labels.tolist()),
        max_drop=max_drop,
        model=net.about,
        golden=cast(GoldenKind, golden),  # `sdk.export` refuses other words
        sign=sign,
        progress=progress,
    )


def export_student(run: Path, validation: Split, target: str, out: Path, bars: Bars) -> Bundle:
    """Export the student of a run at fp32."""
    return lower_and_prove(_of_run(run), out, bars, target=target, validation=validation)


def _report(bundle: Bundle, json: bool) -> None:
    """Show what was made, and how to use it."""
    manifest = bundle.manifest
    proof, quantized = manifest.proof, manifest.quantized
    if json:
        made = {
            "bundle": str(bundle.path),
            "size_bytes": bundle.size_bytes,
            "unverified_on_device": bundle.elsewhere is not None,
        }
        parts = {"quantized": quantized, "lowered": manifest.lowered, "proof": proof}
        show_json({**made, **{name: msgspec.to_builtins(part) for name, part in parts.items()}})
        return
    facts = [("size", f"{bundle.size_bytes / 1e6:.2f} MB")]
    if quantized is not None:
        facts.append(("left in float", ", ".join(quantized.float_layers) or "no layer that can be quantised"))
    if there := bundle.elsewhere:
        facts.append(("proof", "unverified on device: its program answers like PyTorch before it is lowered"))
        facts.append(("runs on", f"{there.devices}, with {there.runtime}"))
    elif proof is None:
        facts.append(("proof", "unproved: name images by --validation"))
    else:
        facts += [
            ("proved on", f"{proof.images:,} images"),
            ("max. abs. difference", f"{proof.max_abs_difference:.1e}"),
            ("same answer", percent(proof.top1_agreement)),
            ("top-1", f"{percent(proof.top1)} (PyTorch {percent(proof.reference_top1)})"),
        ]
    show_facts(str(bundle.path), facts)
    then = f"verify {bundle.path}" if bundle.elsewhere else f"predict {bundle.path} IMAGE"
    remark(f"next: libkd-sdk {then}")

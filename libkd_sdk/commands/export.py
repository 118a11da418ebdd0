"""`libkd-sdk export`"""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdk.bundle import Bundle
from sdk.errors import UsageError
from sdk.exporting.exporter import CALIBRATION_IMAGES, MAX_DROP
from sdk.exporting.exporter import export as export_module
from sdk.exporting.request import find_lowering
from sdk.images import Pixels, Preprocessing

from ..options import RootOption, training_extra
from ..output import Bars, JsonOption, percent, remark, show_facts, show_json

if TYPE_CHECKING:
    from trainer.data import Split

TIMM = "timm:"


def export(
    source: Annotated[str, typer.Argument(help="A run's folder, or timm:NAME.", metavar="RUN|timm:NAME")],
    target: Annotated[str, typer.Option("--target", help="onnx, openvino or executorch.")],
    precision: Annotated[str, typer.Option("--precision", help="fp32, fp16 or int8.")] = "fp32",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The bundle's folder; default RUN/bundles/TARGET, below fp32 TARGET-PRECISION."),
    ] = None,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            "--calibrate", help="Pictures that int8 is calibrated on, given like --data; default: the run's training."
        ),
    ] = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", help="Points of top-1 that may be lost; int8 keeps layers in float until so.")
    ] = MAX_DROP,
    validation: Annotated[
        list[str] | None,
        typer.Option("--validation", help="Pictures for the proof, given like --data; default: the run's own test."),
    ] = None,
    golden: Annotated[
        str, typer.Option("--golden", help="What travels along to prove itself by: blends, pictures or none.")
    ] = "blends",
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Of timm:NAME, by timm's names; default: timm downloads its own.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Of timm:NAME, one a line, or a JSON list, in the logits' order.")
    ] = None,
    root: RootOption = None,
    json: JsonOption = False,
) -> None:
    """Lower a run's student, or any net of timm's, for an engine, prove that it answers the same, and write a bundle.

    Example: libkd-sdk export run/ --target openvino --precision int8
    """
    find_lowering(target, precision)  # what can't be lowered is said before any picture is read
    if calibrate and precision != "int8":
        raise UsageError("--calibrate: only int8 takes it; leave it out")
    is_run = not source.startswith(TIMM)
    if is_run and (weights or labels):
        raise UsageError("--weights and --labels: a run has its own; leave them out")
    with training_extra():
        from trainer.data import load_labelled, load_sample, sample
        from trainer.start import Request, prepare

    with Bars() as bars:
        module, names, preprocessing, about = _of_run(Path(source)) if is_run else _of_timm(source, weights, labels)
        input = preprocessing.input
        seen: Pixels | None = None
        if calibrate:
            seen = load_sample(calibrate, CALIBRATION_IMAGES, input, root=root, progress=bars).numpy()
            about["calibrated_on"] = ", ".join(Path(place).name for place in calibrate)
        elif precision == "int8" and not is_run:
            raise UsageError("int8 needs pictures to calibrate on; name some by --calibrate")
        proving = load_labelled(validation, names, input, root=root, progress=bars) if validation else None
        if is_run and (proving is None or (precision == "int8" and seen is None)):
            dataset = prepare(Request(out=Path(source)), bars).data
            proving = proving or dataset.test
            if precision == "int8" and seen is None:
                seen, about["calibrated_on"] = (
                    sample(dataset.train, CALIBRATION_IMAGES).numpy(),
                    f"training pictures, {about['trained_on']}",
                )
        bundle = lower_and_prove(
            (module, names, preprocessing),
            about,
            target=target,
            precision=precision,
            out=out or _default_place(source, target, precision),
            pictures=proving,
            calibration=seen,
            max_drop=max_drop,
            golden=golden,
            bars=bars,
        )
    report(bundle, json)


def _default_place(source: str, target: str, precision: str) -> Path:
    name = target if precision == "fp32" else f"{target}-{precision}"
    if source.startswith(TIMM):
        return Path(f"{source.removeprefix(TIMM)}-{name}")
    return Path(source) / "bundles" / name


def _of_run(run: Path) -> tuple[Any, tuple[str, ...], Preprocessing, dict[str, Any]]:
    from trainer.run import load_student, open_run, remembered_source

    module, labels, preprocessing = load_student(run)
    shape, source = open_run(run).recipe.student, remembered_source(run)
    about = {
        "arch": f"vit-{shape.stem}{shape.patch}-{shape.width}x{shape.depth}",
        "teachers": list(open_run(run).student_record().teachers),
        "trained_on": ", ".join(Path(name).name for name in source.data) if source else None,
    }
    return module, labels, preprocessing, about


def _of_timm(
    source: str, weights: Path | None, labels: Path | None
) -> tuple[Any, tuple[str, ...], Preprocessing, dict[str, Any]]:
    from trainer.models.published import load_published

    if labels is None:
        raise UsageError("timm:NAME needs --labels, a file with the names of its classes")
    name, names = source.removeprefix(TIMM), _read_labels(labels)
    module, preprocessing = load_published(name, weights, len(names))
    return module, names, preprocessing, {"arch": name, "trained_on": None}


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise UsageError(f"{path}: can't be read as labels ({fault}); one a line, or a JSON list") from fault
    if text.lstrip().startswith("["):
        try:
            names = json_module.loads(text)
        except ValueError as fault:
            raise UsageError(f"{path}: begins like a JSON list and is none ({fault})") from fault
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    return tuple(names)


def lower_and_prove(
    student: tuple[Any, Sequence[str], Preprocessing],
    about: dict[str, Any],
    *,
    target: str,
    precision: str,
    out: Path,
    pictures: Split | None,
    calibration: Pixels | None,
    max_drop: float,
    golden: str,
    bars: Bars,
) -> Bundle:
    """A bundle, with a bar for each stage."""
    module, labels, preprocessing = student
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
        module,
        target=target,
        precision=precision,
        out=out,
        labels=labels,
        preprocessing=preprocessing,
        calibration=calibration,
        validation=None if pictures is None else (pictures.pixels().numpy(), pictures.labels.tolist()),
        max_drop=max_drop,
        model=about,
        golden=golden,  # type: ignore[arg-type]  # checked there, with a better message
        progress=progress,
    )


def export_student(run: Path, pictures: Split, target: str, out: Path, bars: Bars) -> Bundle:
    """A run's student at fp32."""
    *student, about = _of_run(run)
    return lower_and_prove(
        tuple(student),
        about,
        target=target,
        precision="fp32",
        out=out,
        pictures=pictures,
        calibration=None,
        max_drop=MAX_DROP,
        golden="blends",
        bars=bars,
    )


def report(bundle: Bundle, json: bool) -> None:
    """Say what was made, and what to do with it."""
    manifest = bundle.manifest
    proof, quantized = manifest.proof, manifest.quantized
    if json:
        import msgspec

        made = {"bundle": str(bundle.path), "size_bytes": bundle.size_bytes}
        parts = {"quantized": quantized, "lowered": manifest.lowered, "proof": proof}
        show_json({**made, **{name: msgspec.to_builtins(part) for name, part in parts.items()}})
        return
    facts = [("size", f"{bundle.size_bytes / 1e6:.2f} MB")]
    if quantized is not None:
        facts.append(("left in float", ", ".join(quantized.float_layers) or "nothing that can be quantised"))
    if proof is None:
        facts.append(("proof", "unproved: give pictures by --validation"))
    else:
        facts += [
            ("proved on", f"{proof.images:,} pictures"),
            ("max. abs. difference", f"{proof.max_abs_difference:.1e}"),
            ("same answer", percent(proof.top1_agreement)),
            ("top-1", f"{percent(proof.top1)} (PyTorch {percent(proof.reference_top1)})"),
        ]
    show_facts(str(bundle.path), facts)
    remark(f"next: libkd-sdk predict {bundle.path} PICTURE")

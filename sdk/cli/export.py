"""`libkd-sdk export`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..bundle import Bundle
from ..exporter import export as export_module
from ..exporter import find_lowering
from ..images import Preprocessing
from .output import Bars, JsonOption, percent, remark, show_facts, show_json
from .training import RootOption, prepare, training_extra

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.data import Split


def export(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    target: Annotated[str, typer.Option("--target", help="onnx, openvino or executorch.")],
    precision: Annotated[str, typer.Option("--precision", help="fp32.")] = "fp32",
    out: Annotated[Path | None, typer.Option("--out", help="The bundle's folder; default RUN/bundles/TARGET.")] = None,
    validation: Annotated[
        list[str] | None,
        typer.Option("--validation", help="Pictures for the proof, given like --data; default: the run's own test."),
    ] = None,
    golden: Annotated[
        str, typer.Option("--golden", help="What travels along to prove itself by: blends, pictures or none.")
    ] = "blends",
    root: RootOption = None,
    json: JsonOption = False,
) -> None:
    """Lower a run's student for an engine, prove that it answers the same, and write a bundle.

    Example: libkd-sdk export run/ --target openvino
    """
    with training_extra():
        from trainer.data import load_labelled
        from trainer.run import load_student

    student, labels, preprocessing = load_student(run)
    find_lowering(target, precision)  # what can't be lowered is said before any picture is read
    with Bars() as bars:
        if validation:
            pictures = load_labelled(validation, labels, preprocessing.input, root=root, watch=bars)
        else:
            pictures = prepare(run, None, None, None, None, bars)[1].test
        bundle = export_student(
            run,
            (student, labels, preprocessing),
            pictures,
            target,
            precision,
            out or run / "bundles" / target,
            golden,
            bars,
        )
    report(bundle, json)


def export_student(
    run: Path,
    student: tuple[Any, tuple[str, ...], Preprocessing],
    pictures: Split[Tensor],
    target: str,
    precision: str,
    out: Path,
    golden: str,
    bars: Bars,
) -> Bundle:
    """A run's student as a bundle that says where it comes from."""
    from trainer.run import open_run, remembered_source

    module, labels, preprocessing = student
    shape, source = open_run(run).recipe.student, remembered_source(run)
    about = {
        "arch": f"vit-{shape.stem}{shape.patch}-{shape.width}x{shape.depth}",
        "teachers": open_run(run).config("student")["teachers"],
        "trained_on": ", ".join(Path(name).name for name in source.data) if source else None,
    }
    seen = ""

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal seen
        if stage != seen:
            bars.begin(f"{stage} {target}", total)
            seen = stage
        bars.advance_to(done)
        if done == total:
            bars.end()

    return export_module(
        module,
        target=target,
        precision=precision,
        out=out,
        labels=labels,
        preprocessing=preprocessing,
        validation=(pictures.images.numpy(), pictures.labels.tolist()),
        model=about,
        golden=golden,  # type: ignore[arg-type]  # checked there, with a better message
        progress=progress,
    )


def report(bundle: Bundle, json: bool) -> None:
    """Say what was made, and what to do with it."""
    proof = bundle.manifest.proof
    if json:
        import msgspec

        show_json({"bundle": str(bundle.path), "size_bytes": bundle.size_bytes, "proof": msgspec.to_builtins(proof)})
        return
    assert proof is not None
    show_facts(
        str(bundle.path),
        [
            ("size", f"{bundle.size_bytes / 1e6:.2f} MB"),
            ("proved on", f"{proof.images:,} pictures"),
            ("max. abs. difference", f"{proof.max_abs_difference:.1e}"),
            ("top-1", f"{percent(proof.top1)} (PyTorch {percent(proof.reference_top1)})"),
        ],
    )
    remark(f"next: libkd-sdk predict {bundle.path} PICTURE")

"""The command `libkd-sdk info`."""

from __future__ import annotations

import msgspec

from runtimes.engines import how_it_runs
from sdk.bundle import Bundle, Signed
from sdk.errors import EngineError

from ..options import BundleArgument, TrustedOption
from ..output import JsonOption, percent, show_facts, show_json
from ..run_bundles import bundle_of


def info(
    bundle: BundleArgument,
    key: TrustedOption = None,
    json: JsonOption = False,
) -> None:
    """Show what a bundle contains: its model, its input, its labels, its proof, and who signed it.

    Example: libkd-sdk info run/bundles/onnx
    """
    opened = Bundle.open(bundle_of(bundle), trusted=key or None)
    manifest, proof = opened.manifest, opened.manifest.proof
    if json:
        known = {"signed": msgspec.to_builtins(opened.signed), "unverified_on_device": opened.elsewhere is not None}
        show_json({**msgspec.to_builtins(manifest), **known})
        return
    input = manifest.input
    shown = ", ".join(manifest.labels[:12]) + (", ..." if len(manifest.labels) > 12 else "")
    facts = [
        ("target", f"{manifest.target} {manifest.precision}"),
        *([("backend", manifest.backend)] if manifest.backend else []),
        *_where(opened),
        ("created", manifest.created),
        ("signature", signature(opened.signed)),
        ("model", f"{manifest.model.arch}, {manifest.model.parameters:,} parameters"),
        ("teachers", ", ".join(manifest.model.teachers) or "none"),
        ("trained on", manifest.model.trained_on or "unknown"),
        ("labels", f"{len(manifest.labels)}: {shown}"),
        ("input", f"uint8 RGB [n, {input.height}, {input.width}, 3], in 0..255"),
        ("resize", f"{input.resize.mode} {input.resize.size[1]}x{input.resize.size[0]}, {input.resize.filter}"),
        ("crop", input.crop),
        (
            "output",
            f"{manifest.output.kind} [n, {len(manifest.labels)}], temperature {manifest.output.temperature:.3f}",
        ),
        ("files", ", ".join(f"{name} {entry.bytes / 1e6:.2f} MB" for name, entry in manifest.files.items())),
    ]
    if quantized := manifest.quantized:
        facts += [
            (
                "calibrated on",
                f"{quantized.calibration_images} images, {manifest.model.calibrated_on or 'unknown'}",
            ),
            ("left in float", ", ".join(quantized.float_layers) or "no layer that can be quantised"),
        ]
    if lowered := manifest.lowered:
        outside = ", ".join(f"{name} x {count}" for name, count in lowered.outside.items())
        facts.append(("delegates", f"{lowered.delegates}; outside: {outside or 'nothing'}"))
    if proof is None:
        missing = "it was not run when it was made" if opened.elsewhere else "it was exported without validation images"
        facts.append(("proof", f"unproved: {missing}"))
    else:
        facts.append(
            (
                "proof",
                f"{proof.images:,} images: max. abs. difference {proof.max_abs_difference:.1e}, "
                f"same answer {percent(proof.top1_agreement)}, "
                f"top-1 {percent(proof.top1)} (PyTorch {percent(proof.reference_top1)})",
            )
        )
    facts.append(("made with", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())))
    show_facts(manifest.name, facts)


def _where(bundle: Bundle) -> list[tuple[str, str]]:
    """Return how the engine runs on this machine, if there are several ways, or why it does not."""
    if there := bundle.elsewhere:
        return [("runs on", f"{there.devices}, with {there.runtime}: unverified on device")]
    try:
        how = how_it_runs(bundle.target)
    except EngineError as fault:
        return [("runs here with", f"nothing ({fault})")]
    return [("runs here with", how)] if how else []


def signature(signed: Signed | None) -> str:
    """Return who signed a bundle, and whether that is known or only said."""
    if signed is None:
        return "none"
    return f"by key {signed.key}, " + ("checked" if signed.verified else "not checked: give the public key by --key")

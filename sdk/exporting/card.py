"""The model card of a bundle, in Markdown: facts that a person should know before using it (Mitchell et al., 2019)."""

from __future__ import annotations

from collections.abc import Iterable

from runtimes.engines import elsewhere, full_title

from ..bundle.manifest import Manifest

CARD = "model_card.md"

NUMBERS = {"fp32": "32-bit floats", "fp16": "16-bit floats", "int8": "8-bit integers"}


def model_card(manifest: Manifest) -> str:
    """Return the card as Markdown. It states only what the manifest says."""
    labels = manifest.labels
    shown = ", ".join(labels[:100]) + (f", and {len(labels) - 100} more" if len(labels) > 100 else "")
    return "\n".join(
        [
            f"# {_plain(manifest.name)}",
            "",
            f"A classifier of images into {len(labels)} classes, for {_target(manifest)}, in "
            f"{NUMBERS[manifest.precision]}. Made {manifest.created}.",
            "",
            "## Where it comes from",
            "",
            *_items(_origin(manifest)),
            "",
            "## How well it works",
            "",
            *_accuracy(manifest),
            "",
            "## Limits",
            "",
            *_items(_limits(manifest)),
            "",
            "## Classes",
            "",
            _plain(shown),
            "",
        ]
    )


def _target(manifest: Manifest) -> str:
    chosen = full_title(manifest.target, manifest.backend) != full_title(manifest.target, None)
    return f"{manifest.target} with {manifest.backend}" if chosen else manifest.target


def _origin(manifest: Manifest) -> Iterable[str]:
    model = manifest.model
    yield f"Net: {model.arch}, {model.parameters:,} parameters."
    yield f"Trained on: {model.trained_on or 'not recorded'}."
    yield f"Taught by: {', '.join(model.teachers) or 'labels alone, or not recorded'}."
    if quantized := manifest.quantized:
        yield (f"Calibrated on {quantized.calibration_images} images: {model.calibrated_on or 'not recorded which'}.")
        yield f"Layers left in float: {', '.join(quantized.float_layers) or 'none'}."


def _accuracy(manifest: Manifest) -> Iterable[str]:
    proof = manifest.proof
    if there := elsewhere(manifest.target, manifest.backend):
        yield (
            f"**Unverified on device**: it runs on {there.devices}, and was not run when it was made. Before it was "
            "lowered, its program answered like PyTorch. `libkd-sdk verify` says how to verify it on the device."
        )
        return
    if proof is None:
        yield "**Unproved**: no validation images were given at export."
        return
    yield f"On {proof.images:,} validation images:"
    yield ""
    yield "| | top-1 | same answer as PyTorch | largest difference of a probability |"
    yield "|---|---|---|---|"
    yield f"| PyTorch, fp32 | {_percent(proof.reference_top1)} | | |"
    yield (
        f"| {manifest.target}, {manifest.precision} | {_percent(proof.top1)} | "
        f"{_percent(proof.top1_agreement)} | {proof.max_abs_difference:.2g} |"
    )
    if proof.top1 is None:
        yield ""
        yield "The images had no labels, so its accuracy is unknown."


def _limits(manifest: Manifest) -> Iterable[str]:
    yield "It knows only its classes: an image of anything else also gets one of them."
    yield "It was not measured on other kinds of images (another camera, light, framing)."
    yield (
        "Its probabilities were "
        + (
            "not calibrated."
            if manifest.output.temperature == 1.0
            else f"calibrated by a temperature of {manifest.output.temperature:.3f} on validation images."
        )
    )
    if manifest.precision != "fp32":
        yield "Another kind of CPU rounds differently; `libkd-sdk verify` measures by how much."


def _items(texts: Iterable[str]) -> Iterable[str]:
    return (f"- {_plain(text)}" for text in texts)


def _plain(text: str) -> str:
    """Escape a text, so that names from outside do not become markup."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|" else letter for letter in text)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"

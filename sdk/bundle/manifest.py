"""The format of a bundle: `bundle.json` as a typed struct. spec/bundle.md describes it for other languages.

The model file carries a `Description`, which is the manifest without what is known only after the file was made.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from runtimes.engines import ENGINES

from ..images import Input

FORMAT = "libkd-bundle/1"
MANIFEST = "bundle.json"
MAX_FILE_BYTES = 2 * 2**30  # no engine here reads a larger single file

Precision: TypeAlias = Literal["fp32", "fp16", "int8"]
Target: TypeAlias = Annotated[str, msgspec.Meta(description="the engine", extra_json_schema={"enum": list(ENGINES)})]
Label: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f]+\Z", max_length=500)]
Share: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content that a file of the bundle must have."""

    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_FILE_BYTES)]


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The graph returns probabilities [batch, classes]; `temperature` has already divided the logits."""

    kind: Literal["probabilities"] = "probabilities"
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The origin of the weights."""

    arch: str
    parameters: Count
    teachers: tuple[str, ...] = ()
    trained_on: str | None = None
    calibrated_on: str | None = None


class Quantized(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The making of an 8-bit model: the number of calibration images, and the layers that stayed in float."""

    calibration_images: Annotated[int, msgspec.Meta(ge=1)]
    float_layers: tuple[str, ...] = ()


class Lowered(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The result of partitioning: the number of parts that a backend runs, and the operators that it does not run,
    with how often each occurs."""

    delegates: Count
    outside: dict[str, Count]


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The measurements made at export, against the fp32 PyTorch module on the same pixels.

    `max_abs_difference` is between probabilities. The last two are None if the images had no labels.
    """

    images: Annotated[int, msgspec.Meta(ge=1)]
    max_abs_difference: Share
    top1_agreement: Share
    top1: Share | None = None
    reference_top1: Share | None = None

    @property
    def drop(self) -> float:
        """Return the points of top-1 that were lost; without labels, the percentage of answers that changed."""
        if self.top1 is None or self.reference_top1 is None:
            return 100 * (1 - self.top1_agreement)
        return 100 * (self.reference_top1 - self.top1)


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The part of a manifest that the model file carries as well.

    Attributes:
        target: the engine.
        backend: the backend that the engine delegates to, if it has several to choose from; None is its default.
    """

    format: Literal["libkd-bundle/1"]
    name: Label
    created: str
    target: Target
    backend: str | None = None
    precision: Precision
    labels: Annotated[tuple[Label, ...], msgspec.Meta(min_length=2)]
    input: Input
    output: Output
    model: Model
    quantized: Quantized | None = None
    versions: dict[str, str]

    def __post_init__(self) -> None:
        if self.target not in ENGINES:
            raise ValueError(f"target {self.target!r} is none of the engines here: {', '.join(ENGINES)}")
        backends = ENGINES[self.target].backends
        if self.backend is not None and self.backend not in backends:
            raise ValueError(
                f"backend {self.backend!r} is none of {self.target}'s: {', '.join(backends) or 'it has none'}"
            )


class Manifest(Description, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `bundle.json`."""

    files: dict[str, FileEntry]
    lowered: Lowered | None = None
    proof: Proof | None

    def description(self) -> Description:
        """Return what the model file carries."""
        return Description(**{name: getattr(self, name) for name in Description.__struct_fields__})


def embedded(manifest: Manifest) -> str:
    """Return the JSON, on one line, that the model file carries."""
    return msgspec.json.encode(manifest.description(), order="deterministic").decode()


def carried_by(text: str) -> Description | None:
    """Return the description that `embedded` wrote, or None if the text is something else."""
    try:
        return msgspec.json.decode(text, type=Description)
    except (msgspec.DecodeError, RecursionError):
        return None


def json_schema() -> dict[str, object]:
    """Return the JSON schema of `bundle.json`, which spec/bundle.schema.json contains."""
    text = msgspec.json.encode(msgspec.json.schema(Manifest)).decode()
    # Python's regular expressions end with \Z; those of JSON schema, which are ECMA's, end with $.
    schema: dict[str, object] = msgspec.json.decode(text.replace(r"\\Z", "$"))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

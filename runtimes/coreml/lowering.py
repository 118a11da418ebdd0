"""The lowering to `model.mlpackage.zip`: an ML program that classifies an image of our height and width."""

from __future__ import annotations

import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtimes.base import METADATA_KEY, Outcome, Quantization, Signature, lowering_refusals
from runtimes.errors import ExportError
from runtimes.fx import ProgramSession
from runtimes.logs import unchanged_logging

with unchanged_logging(), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import coremltools

FILE, PACKAGE = "model.mlpackage.zip", "model.mlpackage"

INPUT, LABEL = "image", "classLabel"
"""The names that Apple's examples have. The probabilities are in `classLabel_probs`, a dictionary by label."""

FLOAT16 = coremltools.proto.MIL_pb2.DataType.Value("FLOAT16")

LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the archive, the first one that the format knows."""


class _ChannelsFirst(torch.nn.Module):
    """The module for an image as Core ML gives it: float32 [1, 3, height, width], RGB, 0 to 255."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor) -> Tensor:
        probabilities: Tensor = self.module(image.permute(0, 2, 3, 1))
        return probabilities


def lower(
    module: torch.nn.Module,
    *,
    signature: Signature,
    precision: str,
    backend: str | None,
    quantization: Quantization | None,
    manifest: str,
    folder: Path,
) -> Outcome:
    """Write `model.mlpackage.zip`; see `runtimes.base.Lowering`.

    At fp16, weights and arithmetic are in 16 bits, the softmax too.
    """
    labels = json.loads(manifest)["labels"]
    if len(set(labels)) < len(labels):
        raise ExportError("Core ML answers with a dictionary by label, so no label may occur twice; rename them")
    example = torch.zeros(1, 3, signature.height, signature.width)
    with _silence(), lowering_refusals("Core ML", precision), tempfile.TemporaryDirectory() as place:
        program = torch.export.export(_ChannelsFirst(module).eval(), (example,)).run_decompositions({})
        model = coremltools.convert(
            program,
            convert_to="mlprogram",
            inputs=[coremltools.ImageType(INPUT, example.shape, color_layout=coremltools.colorlayout.RGB)],
            classifier_config=coremltools.ClassifierConfig(labels, predicted_feature_name=LABEL),
            compute_precision=coremltools.precision.FLOAT16 if precision == "fp16" else coremltools.precision.FLOAT32,
            minimum_deployment_target=coremltools.target.iOS16,
            skip_model_load=True,
        )
        model.user_defined_metadata[METADATA_KEY] = manifest
        package = Path(place) / PACKAGE
        model.save(str(package))
        spec = coremltools.utils.load_spec(str(package))
        _check(spec, signature, labels, precision)
        _pack(package, folder / FILE)
    carried = str(spec.description.metadata.userDefined[METADATA_KEY])
    return Outcome(stand_in=ProgramSession(program.module(), carried, _as_core_ml_gives_it))


def _as_core_ml_gives_it(image: Tensor) -> Tensor:
    return image.permute(0, 3, 1, 2).float()


def _pack(package: Path, archive: Path) -> None:
    """Put the package's files into an archive, uncompressed: `Manifest.json`, the program and its weights."""
    with zipfile.ZipFile(archive, "w") as packed:
        for file in [package / "Manifest.json", *sorted((package / "Data").rglob("*"))]:
            if file.is_file():
                entry = zipfile.ZipInfo(f"{PACKAGE}/{file.relative_to(package).as_posix()}", LONG_AGO)
                entry.external_attr = 0o644 << 16
                packed.writestr(entry, file.read_bytes())


def _check(spec: Any, signature: Signature, labels: list[str], precision: str) -> None:
    """Raise `ExportError` unless the program has the input, the answer and the arithmetic that it should have.

    Nothing here can run it, so this is what can be known of the file.
    """
    (image,), (label, probabilities) = spec.description.input, spec.description.output
    pixels = image.type.imageType
    found = (image.name, pixels.height, pixels.width, pixels.colorSpace)
    if found != (INPUT, signature.height, signature.width, pixels.ColorSpace.Value("RGB")):
        raise ExportError(f"the input is {found}, and no RGB image of {signature.height} x {signature.width}")
    answers = (label.name, label.type.WhichOneof("Type"), probabilities.type.WhichOneof("Type"))
    if answers != (LABEL, "stringType", "dictionaryType"):
        raise ExportError(f"the outputs are {answers}, and no label with probabilities")
    operations = _operations(spec)
    tensors = [output.type.tensorType for operation in operations for output in operation.outputs]
    if any(tensor.dataType == FLOAT16 for tensor in tensors) != (precision == "fp16"):
        raise ExportError(f"the program does not compute at {precision}")
    classes = operations[-1].inputs["classes"].arguments[0].value.immediateValue.list.values
    names = [name.immediateValue.tensor.strings.values[0] for name in classes]
    if operations[-1].type != "classify" or names != labels:
        raise ExportError("the program does not end in a classification into these labels")


def _operations(spec: Any) -> list[Any]:
    (main,) = spec.mlProgram.functions.values()
    (block,) = main.block_specializations.values()
    return list(block.operations)


@contextmanager
def _silence() -> Iterator[None]:
    """Hide what coremltools says while it works: logs, warnings and bars."""
    with unchanged_logging(), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

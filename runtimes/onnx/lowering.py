"""Makes `model.onnx`: one file, dynamic batch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnxscript  # noqa: F401  (torch.onnx needs it, and says so only halfway through)
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from runtimes.base import INPUT, METADATA_KEY, OUTPUT, Signature, lowering_refusals

from .session import FILE

PRECISIONS = ("fp32",)

OPSET = 20  # from 21 on, ONNX Runtime's static quantiser refuses the graph


def lower(module: torch.nn.Module, *, signature: Signature, precision: str, manifest: str, folder: Path) -> None:
    example = torch.zeros(2, signature.height, signature.width, 3, dtype=torch.uint8)  # 1 would be taken for static
    with lowering_refusals("ONNX"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: "batch"},),
            external_data=False,
            verbose=False,
        )
        ClearMetadataAndDocStringPass()(program.model)  # stack traces, with the paths of this machine in them
        program.model.metadata_props[METADATA_KEY] = manifest
        program.save(folder / FILE, external_data=False)

"""Makes `model.xml` and `model.bin`: weights as they are, dynamic batch."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import openvino
import torch

from runtimes.base import INPUT, METADATA_KEY, OUTPUT, Signature, lowering_refusals

from .session import FILE

PRECISIONS = ("fp32",)


def lower(module: torch.nn.Module, *, signature: Signature, precision: str, manifest: str, folder: Path) -> None:
    example = torch.zeros(2, signature.height, signature.width, 3, dtype=torch.uint8)  # 1 would be taken for static
    with lowering_refusals("OpenVINO"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        model = openvino.convert_model(program)
        model.input().tensor.set_names({INPUT})
        model.output().tensor.set_names({OUTPUT})
        model.reshape([-1, signature.height, signature.width, 3])  # conversion forgets the static lengths
        model.inputs[0].node.layout = openvino.Layout("NHWC")
        model.set_rt_info(manifest, METADATA_KEY)
        for key, value in _model_api_keys(manifest).items():
            model.set_rt_info(value, ["model_info", key])
        openvino.save_model(model, folder / FILE, compress_to_fp16=False)


def _model_api_keys(manifest: str) -> dict[str, str]:
    """What OpenVINO's Model API and its model server look for; they part labels at spaces."""
    described = json.loads(manifest)
    return {
        "model_type": "Classification",
        "labels": " ".join(label.replace(" ", "_") for label in described["labels"]),
        "resize_type": {"squash": "standard", "cover": "crop"}[described["input"]["resize"]["mode"]],
    }

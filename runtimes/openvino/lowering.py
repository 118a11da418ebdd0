"""The lowering to `model.xml` and `model.bin`: for batches of any size, or at int8 for one image at a time."""

from __future__ import annotations

import errno
import io
import json
import logging
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import openvino
import torch
from torch.export import ExportedProgram

from runtimes.base import INPUT, METADATA_KEY, OUTPUT, Quantization, Signature, lowering_refusals
from runtimes.fx import is_convolutional, layer_of

from .session import FILE

logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # nncf imports it, and it looks for CUDA
import nncf  # noqa: E402
from nncf.quantization.advanced_parameters import (  # noqa: E402
    AdvancedQuantizationParameters,
    AdvancedSmoothQuantParameters,
)

nncf.set_log_level(logging.ERROR)


def lower(
    module: torch.nn.Module,
    *,
    signature: Signature,
    precision: str,
    quantization: Quantization | None,
    manifest: str,
    folder: Path,
) -> None:
    """Write `model.xml` and `model.bin`; see `runtimes.base.Lowering`."""
    example = torch.zeros(2, signature.height, signature.width, 3, dtype=torch.uint8)  # 1 would be taken for static
    with lowering_refusals("OpenVINO", precision), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        model = openvino.convert_model(program)
        # The conversion loses the static lengths. A dynamic 8-bit model crashes on CPUs with AMX.
        model.reshape([1 if quantization else -1, signature.height, signature.width, 3])
        if quantization is not None:
            model = _quantized(model, program, quantization)
        model.input().tensor.set_names({INPUT})
        model.output().tensor.set_names({OUTPUT})
        model.inputs[0].node.layout = openvino.Layout("NHWC")
        model.set_rt_info(manifest, METADATA_KEY)
        for key, value in _model_api_keys(manifest).items():
            model.set_rt_info(value, ["model_info", key])
        try:
            openvino.save_model(model, folder / FILE, compress_to_fp16=precision != "fp32")
        except RuntimeError as fault:
            if "iostream" in str(fault):  # all that OpenVINO says of a full disk
                raise OSError(errno.EIO, "the disk may be full") from fault
            raise


def _quantized(model: Any, program: ExportedProgram, quantization: Quantization) -> Any:
    """Quantise a net of convolutions with NNCF's defaults, and any other net with those for transformers.

    Two of the latter are off, because they changed the answers of trained students: smoothing and the correction of
    biases. With both, 0.987 of the answers stayed the same; without them, 0.997.
    """
    how: dict[str, Any] = {}
    if not is_convolutional(program):
        plain = AdvancedQuantizationParameters(
            smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=-1), disable_bias_correction=True
        )
        how = {"model_type": nncf.ModelType.TRANSFORMER, "advanced_parameters": plain}
    with redirect_stdout(io.StringIO()):  # hides its progress bars
        return nncf.quantize(
            model,
            nncf.Dataset(list(quantization.images[:, None])),
            subset_size=len(quantization.images),
            ignored_scope=nncf.IgnoredScope(names=_operations(model, program, quantization.float_layers)),
            **how,
        )


def _operations(model: Any, program: ExportedProgram, layers: tuple[str, ...]) -> list[str]:
    """Return the names that the layers' matrix products and convolutions have in the model.

    Such a name begins with the name of the program's operator that it was converted from.
    """
    operators = {node.name for node in program.graph.nodes if layer_of(node) in layers}
    weighted = {"MatMul", "Convolution", "GroupConvolution"}
    found = (op for op in model.get_ops() if op.get_type_name() in weighted)
    return [op.get_friendly_name() for op in found if op.get_friendly_name().split("/")[0] in operators]


def _model_api_keys(manifest: str) -> dict[str, str]:
    """Return the entries that OpenVINO's Model API and model server read; they separate labels by spaces."""
    described = json.loads(manifest)
    return {
        "model_type": "Classification",
        "labels": " ".join(label.replace(" ", "_") for label in described["labels"]),
        "resize_type": {"squash": "standard", "cover": "crop"}[described["input"]["resize"]["mode"]],
    }

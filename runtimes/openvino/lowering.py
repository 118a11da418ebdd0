"""The lowering to `model.xml` and `model.bin`: for batches of any size, or at int8 for one image at a time."""

from __future__ import annotations

import errno
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from runtimes.base import INPUT, METADATA_KEY, OUTPUT, Quantization, Signature, lowering_refusals
from runtimes.fx import is_convolutional, layer_of, program_of, takes_one

from .session import FILE

logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # nncf imports it, and it looks for CUDA
import nncf  # noqa: E402
from nncf.quantization.advanced_parameters import (  # noqa: E402
    AdvancedQuantizationParameters,
    AdvancedSmoothQuantParameters,
    OverflowFix,
)
from nncf.quantization.range_estimator import RangeEstimatorParameters, RangeEstimatorParametersSet  # noqa: E402

nncf.set_log_level(logging.ERROR)


def lower(
    module: torch.nn.Module,
    *,
    signature: Signature,
    precision: str,
    backend: str | None,
    quantization: Quantization | None,
    manifest: str,
    folder: Path,
) -> None:
    """Write `model.xml` and `model.bin`; see `runtimes.base.Lowering`."""
    with lowering_refusals("OpenVINO", precision), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = program_of(module, signature)
        model = openvino.convert_model(program)
        # The conversion loses the static lengths. A dynamic 8-bit model crashes on CPUs with AMX.
        batch = 1 if quantization is not None or takes_one(program) else -1
        model.reshape([batch, signature.height, signature.width, 3])
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
    """Quantise a net of convolutions as NNCF does by default, and any other net with its settings for transformers.

    Two of the latter are off, because they changed the answers of trained students: smoothing and the correction of
    biases. With both, 0.987 of the answers stayed the same; without them, 0.997.

    In some nets of convolutions, the default ranges cut off what decides the answer. So these nets are also quantised
    with the whole ranges, and the model whose answers to the images are nearer to the unquantised one is kept.

    Weights take half of the range of 8 bits, and the products within attention stay in float. Otherwise CPUs without
    VNNI, which add two products in 16 bits, would cut off sums and answer differently.
    """
    dataset = nncf.Dataset(list(quantization.images[:, None]))
    kept = nncf.IgnoredScope(
        names=[*_operations(model, program, quantization.float_layers), *_between_activations(model)]
    )

    def quantized(**how: Any) -> Any:
        with redirect_stdout(io.StringIO()):  # hides its progress bars
            return nncf.quantize(
                model.clone(), dataset, subset_size=len(quantization.images), ignored_scope=kept, **how
            )

    if not is_convolutional(program):
        plain = AdvancedQuantizationParameters(
            smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=-1),
            disable_bias_correction=True,
            overflow_fix=OverflowFix.ENABLE,
        )
        return quantized(model_type=nncf.ModelType.TRANSFORMER, advanced_parameters=plain)
    whole = RangeEstimatorParametersSet.MINMAX
    expected = _answers(model, quantization.images)
    tried = [
        quantized(
            advanced_parameters=AdvancedQuantizationParameters(
                activations_range_estimator_params=ranges, overflow_fix=OverflowFix.ENABLE
            )
        )
        for ranges in (RangeEstimatorParameters(), whole)
    ]
    return min(tried, key=lambda one: float(np.abs(_answers(one, quantization.images) - expected).mean()))


def _answers(model: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the probabilities [n, classes] of a model that takes one image."""
    compiled = openvino.Core().compile_model(model.clone(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.concatenate([compiled([image[None]])[0] for image in images])


def _operations(model: Any, program: ExportedProgram, layers: tuple[str, ...]) -> list[str]:
    """Return the names that the layers' matrix products and convolutions have in the model.

    Such a name begins with the name of the program's operator that it was converted from.
    """
    operators = {node.name for node in program.graph.nodes if layer_of(node) in layers}
    weighted = {"MatMul", "Convolution", "GroupConvolution"}
    found = (op for op in model.get_ops() if op.get_type_name() in weighted)
    return [op.get_friendly_name() for op in found if op.get_friendly_name().split("/")[0] in operators]


def _between_activations(model: Any) -> Iterator[str]:
    """Yield the names of attention, and of matrix products without a weight."""
    for op in model.get_ops():
        kind = op.get_type_name()
        if kind == "ScaledDotProductAttention" or (kind == "MatMul" and not any(map(_is_weight, op.inputs()))):
            yield op.get_friendly_name()


def _is_weight(port: Any) -> bool:
    return port.get_source_output().get_node().get_type_name() in ("Constant", "Convert")


def _model_api_keys(manifest: str) -> dict[str, str]:
    """Return the entries that OpenVINO's Model API and model server read; they separate labels by spaces."""
    described = json.loads(manifest)
    return {
        "model_type": "Classification",
        "labels": " ".join(label.replace(" ", "_") for label in described["labels"]),
        "resize_type": {"squash": "standard", "cover": "crop"}[described["input"]["resize"]["mode"]],
    }

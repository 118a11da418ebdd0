"""The lowering to `model.onnx`: one file, for batches of any size."""

from __future__ import annotations

import ast
import logging
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime
import onnxscript  # noqa: F401  (torch.onnx needs it, and would complain only halfway through)
import torch
from numpy.typing import NDArray
from onnx import external_data_helper
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from runtimes.base import INPUT, METADATA_KEY, OUTPUT, Quantization, Signature, lowering_refusals
from runtimes.fx import is_convolutional, program_of
from runtimes.rewrites import ONNX, split_heads

from .session import ERRORS_ONLY, FILE

OPSET = 20  # from 21 on, ONNX Runtime's static quantiser refuses the graph
WARNINGS = 2  # ONNX Runtime's own default
SMALL = 1024
"""Weights with fewer numbers are not converted to fp16."""


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
    """Write `model.onnx`; see `runtimes.base.Lowering`."""
    with lowering_refusals("ONNX", precision), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = program_of(module, signature)
        split_heads(program)
        if any(program.graph.find_nodes(op="call_function", target=operator) for operator in ONNX):
            program = program.run_decompositions(ONNX)  # which takes as long as the translation
        exported: Any = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            external_data=False,
            verbose=False,
        )
        model = exported.model
        _name_by_layer(model)
        ClearMetadataAndDocStringPass()(model)  # it holds stack traces with the paths of this machine
        if precision == "fp16":
            _store_halves(model)
        if quantization is not None:
            model = _quantized(model, quantization, is_convolutional(program))
        model.metadata_props[METADATA_KEY] = manifest
        onnx_ir.save(model, folder / FILE)


def _name_by_layer(model: Any) -> None:
    """Name every node after the module that it comes from, so that people and exclusion lists can find it."""
    for number, node in enumerate(model.graph):
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        layer = next((name for name in reversed(scopes[:-1]) if name), "")
        node.name = f"{layer}/{node.op_type}_{number}"


def _layer(node_name: str) -> str:
    return node_name.split("/")[0]


def _store_halves(model: Any) -> None:
    """Store weights as fp16. The engine converts them back to fp32 once, when it loads them.

    On a CPU it has few kernels for fp16, and would otherwise convert around every operator.
    """
    for name, weight in list(model.graph.initializers.items()):
        values = weight.const_value.numpy()
        if values.dtype != np.float32 or values.size < SMALL:
            continue
        half = onnx_ir.Value(name=f"{name}_fp16", const_value=onnx_ir.tensor(values.astype(np.float16)))
        half.shape, half.type = weight.shape, onnx_ir.TensorType(onnx_ir.DataType.FLOAT16)
        cast = onnx_ir.node("Cast", [half], {"to": onnx_ir.DataType.FLOAT}, name=f"{name}/Cast")
        weight.replace_all_uses_with(cast.outputs[0])
        del model.graph.initializers[name]
        cast.outputs[0].name = name
        model.graph.initializers.add(half)
        model.graph.insert_before(model.graph[0], cast)


def _quantized(model: Any, quantization: Quantization, convolutional: bool) -> Any:
    """Quantise weights per channel. Convolutions take calibrated 8-bit inputs; linear layers scale theirs at run time.

    Operators between those layers stay in float. In a net of convolutions, every operator that the engine has in 8 bits
    is calibrated.
    """
    with tempfile.TemporaryDirectory() as folder, _silence(), _no_address():
        plain, static, dynamic = (Path(folder, name) for name in ("plain.onnx", "static.onnx", "dynamic.onnx"))
        onnx_ir.save(model, plain)
        quant_pre_process(plain, plain, skip_symbolic_shape=True)
        nodes = [(str(node.name), node.op_type) for node in onnx_ir.load(plain).graph]
        kept = [name for name, _ in nodes if _layer(name) in quantization.float_layers]
        kept += [f"{name}_MatMul" for name in kept]  # the quantiser renames a Gemm before it looks at this list
        kept += [name for name, kind in nodes if kind == "Softmax"]  # in 8 bits, probabilities do not sum to 1
        quantize_static(
            plain,
            static,
            _CalibrationImages(quantization.images),
            op_types_to_quantize=None if convolutional else ["Conv", "Relu", "Clip"],
            nodes_to_exclude=kept,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        if convolutional:
            return onnx_ir.load(static)
        quantize_dynamic(
            static,
            dynamic,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=[*kept, *_between_activations(onnx_ir.load(static))],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        return _for_one_image(onnx_ir.load(dynamic))


def _for_one_image(model: Any) -> Any:
    """Fix the batch at 1: the scale of a layer's inputs is taken over the batch, so images would change each other."""
    for port in (*model.graph.inputs, *model.graph.outputs):
        port.shape = onnx_ir.Shape([1, *port.shape[1:]])
    return model


@contextmanager
def _silence() -> Iterator[None]:
    """Silence the advice of the quantiser in the root logger, and the comments of the engine."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(ERRORS_ONLY)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(WARNINGS)
        logging.disable(before)


@contextmanager
def _no_address() -> Iterator[None]:
    """Let onnx name a temporary file at random, and not after this machine's address, for which it opens a socket."""
    names: Any = external_data_helper
    before, names.uuid = names.uuid, SimpleNamespace(uuid1=uuid.uuid4)
    try:
        yield
    finally:
        names.uuid = before


def _between_activations(model: Any) -> Iterator[str]:
    """Yield the names of matrix products without a weight, as in attention."""
    for node in model.graph:
        if node.op_type == "MatMul" and not any(value.is_initializer() for value in node.inputs):
            yield node.name


class _CalibrationImages(CalibrationDataReader):  # type: ignore[misc]  # it has no types
    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._left = iter(images)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        image = next(self._left, None)
        return None if image is None else {INPUT: image[None]}

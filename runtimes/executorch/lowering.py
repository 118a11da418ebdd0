"""The lowering to `model.pte`: a static batch of one, with as much as possible delegated to a backend."""

from __future__ import annotations

import copy
import importlib
import io
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from runtimes.base import METADATA_KEY, Delegation, ModelFiles, Outcome, Quantization, Signature, lowering_refusals
from runtimes.errors import ExportError
from runtimes.fx import ProgramSession, is_convolutional, layer_of, program_for_one
from runtimes.logs import unchanged_logging

from .backends import Preparation
from .engine import ENGINE
from .session import FILE, carried_by, quiet

with quiet(), unchanged_logging(), warnings.catch_warnings():  # importing it warns about pandas, pytrees and the CPU
    warnings.simplefilter("ignore")
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.devtools.backend_debug import get_delegation_info
    from executorch.exir import to_edge_transform_and_lower
    from executorch.exir.passes.constant_prop_pass import constant_prop_pass
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, SharedQuantizationSpec
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY


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
    """Write `model.pte`; see `runtimes.base.Lowering`."""
    with _silence(), lowering_refusals("ExecuTorch", precision):
        how: Preparation = importlib.import_module(f"{__package__}.backends.{backend}").preparation(precision)
        module = copy.deepcopy(module).half() if how.halved else module
        program = program_for_one(module, signature)
        if quantization is not None:
            program = _quantized(program, quantization)
        if how.rewrites is not None:
            program = _constants_folded(program.run_decompositions(dict(how.rewrites)))
        edge = to_edge_transform_and_lower(
            program,
            transform_passes=how.passes,
            partitioner=[how.partitioner],
            constant_methods={METADATA_KEY: manifest},
        )
        partitioned = edge.exported_program()
        delegation = _delegation(partitioned.graph_module)
        is_elsewhere = ENGINE.backends[str(backend)].elsewhere is not None
        if is_elsewhere and not delegation.delegates:
            raise ExportError(f"the backend {backend} takes none of its operators")
        # In PyTorch, a delegate computes with the operators that were given to its backend.
        undelegated = partitioned.module() if is_elsewhere else None
        (folder / FILE).write_bytes(edge.to_executorch().buffer)
    if undelegated is None:
        return Outcome(delegation)
    written = carried_by(ModelFiles.in_folder(folder, [FILE]), signature)
    return Outcome(delegation, ProgramSession(undelegated, written))


@contextmanager
def _silence() -> Iterator[None]:
    """Hide what libraries say while they work: logs, warnings, bars, and what native code writes."""
    with quiet(), unchanged_logging(), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _quantized(program: ExportedProgram, quantization: Quantization) -> ExportedProgram:
    """Quantise weights per channel. Convolutions take calibrated 8-bit inputs; linear layers scale theirs at run time.

    Operators between those layers stay in float: with 8-bit sums of residuals a transformer loses accuracy. In a net of
    convolutions, sums and products are calibrated too.
    """
    static = get_symmetric_quantization_config(is_per_channel=True)
    quantizer = _Quantizer()
    quantizer.set_filter_function(lambda node: layer_of(node) not in quantization.float_layers)
    if is_convolutional(program):
        quantizer.set_global(static)
    else:
        dynamic = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
        quantizer.set_operator_type(torch.ops.aten.linear.default, dynamic)
        quantizer.set_operator_type(torch.ops.aten.conv2d.default, static)
    prepared = prepare_pt2e(program.module(), quantizer)
    with torch.inference_mode():
        for image in torch.from_numpy(quantization.images):
            prepared(image[None])
    converted = convert_pt2e(prepared)
    example = torch.from_numpy(quantization.images[:1])
    return torch.export.export(converted, (example,))


class _Quantizer(XNNPACKQuantizer):  # type: ignore[misc]  # it has no types
    """Pads in 8 bits what is in 8 bits: XNNPACK can't load a graph in which a pad changes the type."""

    def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        annotated: torch.fx.GraphModule = super().annotate(model)
        for node in annotated.graph.find_nodes(op="call_function", target=torch.ops.aten.pad.default):
            source = node.args[0]
            known = source.meta.get(Q_ANNOTATION_KEY)
            if known is not None and known.output_qspec is not None:
                shared = SharedQuantizationSpec(source)
                node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
                    input_qspec_map={source: shared}, output_qspec=shared, _annotated=True
                )
        return annotated


def _constants_folded(program: ExportedProgram) -> ExportedProgram:
    """Fold constants: XNNPACK takes a matrix product only if the matrix is a constant. 8-bit constants stay 8-bit."""
    quantisers = {node.target for node in program.graph.nodes if "quantized_decomposed" in str(node.target)}
    folded = constant_prop_pass(program, custom_skip_targets=quantisers)
    _plain_strides(folded)
    return folded  # type: ignore[no-any-return]


def _plain_strides(program: ExportedProgram) -> None:
    """Lay every constant out row by row.

    A folded constant keeps the strides of the views that made it. If it has lengths of 1, they may look like another
    order of its dimensions, and the delegate then fails when it runs.
    """
    constants = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.target is not None}
    for node in program.graph.nodes:
        if (target := constants.get(node.name)) is None or node.op != "placeholder":
            continue
        for tensors in (program.constants, program.state_dict):
            if isinstance(tensor := tensors.get(target), torch.Tensor) and not isinstance(tensor, torch.nn.Parameter):
                tensors[target] = tensor.clone(memory_format=torch.contiguous_format)
                node.meta["val"] = node.meta["val"].clone(memory_format=torch.contiguous_format)


def _delegation(graph: Any) -> Delegation:
    found = get_delegation_info(graph)
    outside: Counter[str] = Counter()
    for name, operator in found.delegation_by_operator.items():
        if operator.non_delegated and name != "getitem":  # it only takes the answer of a delegate out of a tuple
            outside[name.removeprefix("aten_").removesuffix("_default")] = operator.non_delegated
    return Delegation(found.num_delegated_subgraphs, dict(outside.most_common()))

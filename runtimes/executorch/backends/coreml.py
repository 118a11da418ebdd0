"""Core ML, which computes on the CPU, the GPU or the neural engine of Apple's devices."""

from __future__ import annotations

from runtimes.logs import unchanged_logging

with unchanged_logging():
    import coremltools
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner

from . import Preparation

CASTS = ["aten._to_copy.default", "dim_order_ops._to_dim_order_copy.default"]
"""Casts stay outside of the delegate: Core ML has no 8-bit integers as inputs."""


def preparation(precision: str) -> Preparation:
    """Return how a program is prepared for Core ML, which takes all operators of PyTorch's nets as they are."""
    specs = CoreMLBackend.generate_compile_specs(
        minimum_deployment_target=coremltools.target.iOS16,
        compute_precision=coremltools.precision.FLOAT16 if precision == "fp16" else coremltools.precision.FLOAT32,
    )
    return Preparation(CoreMLPartitioner(compile_specs=specs, skip_ops_for_coreml_delegation=CASTS), False, None)

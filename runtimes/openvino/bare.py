"""OpenVINO as its quick start calls it: the baseline of every measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import openvino
from numpy.typing import NDArray

from runtimes.base import Call, one_by_one


def open_bare(file: Path, threads: int, precision: str) -> Call:
    """Return the call of a compiled model with default settings but for the number of threads.

    At fp32 the arithmetic is fp32 too; by default OpenVINO computes in bf16 where the CPU can.
    """
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    if precision == "fp32":
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = openvino.Core().compile_model(file, "CPU", settings)

    def call(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return cast("NDArray[np.float32]", compiled(pixels)[0])

    return one_by_one(call) if compiled.input().partial_shape[0].is_static else call

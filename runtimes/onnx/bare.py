"""ONNX Runtime as its quick start calls it: the baseline of every measurement."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from runtimes.base import Call, one_by_one


def open_bare(file: Path, threads: int, precision: str) -> Call:
    """Return the call of an `InferenceSession` with default options but for the number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options)
    (pixels_port,) = session.get_inputs()

    def call(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return cast("NDArray[np.float32]", session.run(None, {pixels_port.name: pixels})[0])

    return one_by_one(call) if pixels_port.shape[0] == 1 else call

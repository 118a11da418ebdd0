"""ONNX Runtime as its quick start calls it: the baseline of every measurement."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from runtimes.base import Call


def open_bare(file: Path, threads: int, precision: str) -> Call:
    """Return the call of an `InferenceSession` with default options but for the number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options)
    name = session.get_inputs()[0].name
    return lambda pixels: cast("NDArray[np.float32]", session.run(None, {name: pixels})[0])

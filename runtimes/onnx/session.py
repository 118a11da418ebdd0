"""The session that runs `model.onnx` with ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from runtimes.base import (
    INPUT,
    METADATA_KEY,
    OUTPUT,
    Signature,
    check_signature,
    engine_failure,
    engine_failures,
    usable_cores,
)

FILE = "model.onnx"
ERRORS_ONLY = 3
SPIN_US = "50"
"""Microseconds that a thread spins: enough to bridge operators on idle cores, and short beside other work."""


class Session:
    """An `InferenceSession`, which several threads may share."""

    def __init__(self, folder: Path, signature: Signature, precision: str, threads: int | None) -> None:
        self._folder = folder
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        # By default, waiting threads spin for milliseconds and take the cores from the app and from each other.
        options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_US)
        with engine_failures(f"{folder}: loading {FILE}"):
            self._session: Any = _open(folder, options)
            ((_, height, width, _),) = (tensor.shape for tensor in self._session.get_inputs())
            ((_, classes),) = (tensor.shape for tensor in self._session.get_outputs())
        check_signature(folder, FILE, (height, width, classes), signature)

    def run(self, pixels: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Return the probabilities; see `runtimes.base.Session`."""
        try:
            return cast("NDArray[np.float32]", self._session.run([OUTPUT], {INPUT: pixels})[0])
        except Exception as fault:
            raise engine_failure(f"{self._folder}: ONNX Runtime", fault) from fault

    def close(self) -> None:
        """Free the session's memory."""
        self._session = None


def read_manifest(folder: Path) -> str:
    """Return the manifest in the metadata of `model.onnx`, or ""."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with engine_failures(f"{folder}: reading {FILE}"):
        properties = _open(folder, options).get_modelmeta().custom_metadata_map
    return cast(str, properties.get(METADATA_KEY, ""))


def _open(folder: Path, options: Any) -> Any:
    return onnxruntime.InferenceSession(folder / FILE, options, providers=["CPUExecutionProvider"])

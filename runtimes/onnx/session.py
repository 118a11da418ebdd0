"""The session that runs `model.onnx` with ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from runtimes.base import (
    INPUT,
    METADATA_KEY,
    OUTPUT,
    ModelFiles,
    Port,
    Signature,
    check_ports,
    engine_failure,
    engine_failures,
    one_by_one,
)
from runtimes.cores import usable_cores

FILE = "model.onnx"
ERRORS_ONLY = 3
SPIN_US = "50"
"""Microseconds that a thread spins: enough to bridge operators on idle cores, and short beside other work."""
NO_FOLDER = "/dev/null"
"""The folder in which a graph may look for weights outside of its file: one that holds nothing."""

_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


class Session:
    """An `InferenceSession`, which several threads may share. A graph for one image runs them one by one."""

    def __init__(self, files: ModelFiles, signature: Signature, precision: str, threads: int | None) -> None:
        self._place = files.place
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        # By default, waiting threads spin for milliseconds and take the cores from the app and from each other.
        options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_US)
        # Without it, CPUs that have AVX2 or AVX-512 but no VNNI cut off sums of two products in 8 bits at 16 bits.
        options.add_session_config_entry("session.x64quantprecision", "1")
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", NO_FOLDER)
        with engine_failures(f"{files.place}: loading {FILE}"):
            self._session: Any = onnxruntime.InferenceSession(
                files.contents[FILE], options, providers=["CPUExecutionProvider"]
            )
            inputs, outputs = (
                list(map(_port, ports)) for ports in (self._session.get_inputs(), self._session.get_outputs())
            )
            self.manifest = str(self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, ""))
        check_ports(files.place, inputs, outputs, signature)
        self._call = self._any_batch if inputs[0].shape[0] is None else one_by_one(self._any_batch)

    def run(self, pixels: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Return the probabilities; see `runtimes.base.Session`."""
        try:
            return self._call(pixels)
        except Exception as fault:
            raise engine_failure(f"{self._place}: ONNX Runtime", fault) from fault

    def _any_batch(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        answers = self._session.run([OUTPUT], {INPUT: pixels})[0]
        # They lie in memory that the engine locks to free it. After a fork, a lock of another thread stays locked.
        return cast("NDArray[np.float32]", answers.copy())

    def close(self) -> None:
        """Free the session's memory."""
        self._session = None


def _port(port: Any) -> Port:
    shape = tuple(length if isinstance(length, int) else None for length in port.shape)
    return Port(port.name, _DTYPES.get(port.type, port.type), shape)

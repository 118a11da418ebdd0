"""The session that runs `model.xml` and `model.bin` with OpenVINO on the CPU."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any, cast

import numpy as np
import openvino
from numpy.typing import NDArray

from runtimes.base import (
    METADATA_KEY,
    ModelFiles,
    Port,
    Signature,
    check_ports,
    engine_failure,
    engine_failures,
    one_by_one,
)
from runtimes.cores import usable_cores

from .core import core

FILE, WEIGHTS = "model.xml", "model.bin"

_DTYPES = {"u8": "uint8", "f32": "float32"}


class Session:
    """Inference requests behind a lock: with the latency hint, a second request would only share the same threads.

    The graph is compiled for one image, which saves up to a tenth of the time, and compiled again for several images
    when several are predicted for the first time.
    """

    def __init__(self, files: ModelFiles, signature: Signature, precision: str, threads: int | None) -> None:
        self._place = files.place
        self._settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads or usable_cores(),
        }
        if precision == "fp32":  # by default, OpenVINO computes in bf16 if the CPU can
            self._settings |= {"EXECUTION_MODE_HINT": "ACCURACY", "INFERENCE_PRECISION_HINT": "f32"}
        with engine_failures(f"{files.place}: loading {FILE}"):
            self._core: Any = core(files.place)
            weights = openvino.Tensor(np.frombuffer(files.contents[WEIGHTS], np.uint8))  # bytes would be copied twice
            self._model: Any = self._core.read_model(files.contents[FILE], weights)
            inputs, outputs = (list(map(_port, ports)) for ports in (self._model.inputs, self._model.outputs))
            carried = self._model.has_rt_info(METADATA_KEY)
            self.manifest = str(self._model.get_rt_info(METADATA_KEY).astype(str)) if carried else ""
        check_ports(files.place, inputs, outputs, signature)
        with engine_failures(f"{files.place}: loading {FILE}"):
            one = self._model.clone()
            one.reshape([1, signature.height, signature.width, 3])
            self._one: Any = self._request(one)
        self._only_one = inputs[0].shape[0] is not None
        self._several: Any = None
        self._turn = threading.Lock()

    def run(self, pixels: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Return the probabilities; see `runtimes.base.Session`."""
        try:
            with self._turn:
                if len(pixels) == 1:
                    return _infer(self._one, pixels)
                if self._only_one:
                    return one_by_one(partial(_infer, self._one))(pixels)
                if self._several is None:
                    self._several = self._request(self._model)
                return _infer(self._several, pixels)
        except Exception as fault:
            raise engine_failure(f"{self._place}: OpenVINO", fault) from fault

    def _request(self, model: Any) -> Any:
        return self._core.compile_model(model, "CPU", self._settings).create_infer_request()

    def close(self) -> None:
        """Free the compiled models."""
        with self._turn:
            self._one = self._several = self._model = self._core = None


def _infer(request: Any, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return cast("NDArray[np.float32]", request.infer([pixels])[0].copy())  # the next request overwrites the result


def _port(port: Any) -> Port:
    shape = tuple(map(_length, port.partial_shape))
    dtype = port.element_type.get_type_name()
    return Port(", ".join(sorted(port.names)), _DTYPES.get(dtype, dtype), shape)


def _length(dimension: Any) -> int | None:
    return dimension.get_length() if dimension.is_static else None

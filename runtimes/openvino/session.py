"""Runs `model.xml` and `model.bin` with OpenVINO on the CPU."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

import numpy as np
import openvino
from numpy.typing import NDArray

from runtimes.base import METADATA_KEY, Signature, check_signature, engine_failure, engine_failures, usable_cores

FILE = "model.xml"


class Session:
    """One inference request behind a lock: with the latency hint, a second one would only share the same threads."""

    def __init__(self, folder: Path, signature: Signature, precision: str, threads: int | None) -> None:
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads or usable_cores(),
        }
        if precision == "fp32":  # left alone, OpenVINO computes in bf16 where the CPU can
            settings |= {"EXECUTION_MODE_HINT": "ACCURACY", "INFERENCE_PRECISION_HINT": "f32"}
        with engine_failures(f"loading {FILE}"):
            core = openvino.Core()
            model = core.read_model(folder / FILE)
            batch, height, width, _ = map(_length, model.input().partial_shape)
            _, classes = map(_length, model.output().partial_shape)
            check_signature(FILE, (height, width, classes), signature)
            self._request: Any = core.compile_model(model, "CPU", settings).create_infer_request()
        self._batch = batch
        self._turn = threading.Lock()

    def run(self, pixels: NDArray[np.uint8], /) -> NDArray[np.float32]:
        try:
            with self._turn:
                if self._batch is None or len(pixels) == self._batch:
                    return self._infer(pixels)
                return np.concatenate([self._infer(pixels[index : index + 1]) for index in range(len(pixels))])
        except Exception as fault:
            raise engine_failure("OpenVINO", fault) from fault

    def _infer(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        answers = self._request.infer([pixels])
        return cast("NDArray[np.float32]", answers[0].copy())  # the request will write there again

    def close(self) -> None:
        self._request = None


def read_manifest(folder: Path) -> str:
    with engine_failures(f"reading {FILE}"):
        model = openvino.Core().read_model(folder / FILE)
        return str(model.get_rt_info(METADATA_KEY).astype(str)) if model.has_rt_info(METADATA_KEY) else ""


def _length(dimension: Any) -> int | None:
    return dimension.get_length() if dimension.is_static else None

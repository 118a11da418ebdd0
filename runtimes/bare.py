"""The engines as their own quick starts call them: what the house is measured against.

For a process that does nothing else: ExecuTorch's pool of threads is replaced without asking who else uses it.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from runtimes.base import ENGINES, engine_failures, load_runtime

Call: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def load_bare(engine: str) -> None:
    """Import what `open_bare` needs.

    Raises:
        EngineNotInstalled: it can't be imported.
    """
    load_runtime(engine)
    if engine == "executorch":
        from runtimes.executorch.session import quiet

        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is experimental, and says so
            importlib.import_module("executorch.runtime")


def open_bare(engine: str, folder: Path, threads: int, precision: str) -> Call:
    """The engine's files in `folder` behind a call from pixels [batch, height, width, 3] to probabilities.

    Nothing but the number of threads and, in OpenVINO, the precision of fp32 differs from the engine's defaults.

    Raises:
        EngineNotInstalled, EngineFailed: as for `runtimes.base.open_session`.
    """
    load_bare(engine)
    file = folder / ENGINES[engine].files[0]
    with engine_failures(f"loading {file.name}"):
        return {"onnx": _onnx, "openvino": _openvino, "executorch": _executorch}[engine](file, threads, precision)


def _onnx(file: Path, threads: int, precision: str) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options)
    name = session.get_inputs()[0].name
    return lambda pixels: cast("NDArray[np.float32]", session.run(None, {name: pixels})[0])


def _openvino(file: Path, threads: int, precision: str) -> Call:
    import openvino

    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    if precision == "fp32":
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = openvino.Core().compile_model(file, "CPU", settings)

    def call(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return cast("NDArray[np.float32]", compiled(pixels)[0])

    return _each(call) if compiled.input().partial_shape[0].is_static else call


def _executorch(file: Path, threads: int, precision: str) -> Call:
    import torch
    from executorch.extension.pybindings import _C
    from executorch.runtime import Runtime

    from runtimes.executorch.session import quiet

    with quiet():
        _C._unsafe_reset_threadpool(threads)
        forward = Runtime.get().load_program(file).load_method("forward")
    return _each(lambda pixels: forward.execute([torch.from_numpy(pixels)])[0].numpy())


def _each(call: Call) -> Call:
    """For graphs that take one picture."""
    return lambda pixels: np.concatenate([call(pixels[index : index + 1]) for index in range(len(pixels))])

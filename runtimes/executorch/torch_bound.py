"""A program of ExecuTorch, called through its own Python module, which needs torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch  # before the engine, whose library is linked against it
from executorch.extension.pybindings import _C as engine
from numpy.typing import NDArray

from runtimes.base import Port

from .native import DTYPES


class Library:
    """The functions of the Python module, with the names that `native.Library` has."""

    def threads(self) -> int:
        return int(engine._threadpool_get_thread_count())

    def set_threads(self, number: int) -> None:
        engine._unsafe_reset_threadpool(number)

    def open(self, content: bytes) -> Program:
        return Program(content)


class Program:
    """A program, with the methods of `native.Program`."""

    def __init__(self, content: bytes) -> None:
        check = engine.Verification.InternalConsistency
        self._content: bytes | None = content  # the engine reads from the bytes as long as it runs
        self._program: Any = engine._load_program_from_buffer(content, program_verification=check)
        self._forward: Any = None

    def ports(self) -> tuple[list[Port], list[Port]]:
        about = self._program.method_meta("forward")
        inputs = [about.input_tensor_meta(index) for index in range(about.num_inputs())]
        outputs = [about.output_tensor_meta(index) for index in range(about.num_outputs())]
        return list(map(_port, inputs)), list(map(_port, outputs))

    def text(self, method: str) -> str:
        methods = [self._program.get_method_name(index) for index in range(self._program.num_methods())]
        return str(self._program.load_method(method)([])[0]) if method in methods else ""

    def load(self) -> None:
        self._forward = self._program.load_method("forward")

    def run(self, image: NDArray[np.uint8], answer: NDArray[np.float32]) -> None:
        # Torch warns of an array that can't be written.
        pixels = torch.from_numpy(np.require(image, requirements="W"))
        answer[:] = self._forward([pixels[None]])[0].numpy()[0]

    def close(self) -> None:
        self._forward = self._program = self._content = None


def _port(tensor: Any) -> Port:
    return Port(None, DTYPES.get(tensor.dtype(), str(tensor.dtype())), tuple(tensor.sizes()))

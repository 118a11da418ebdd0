"""A program of ExecuTorch, called through the C interface of `native.cpp`, without torch."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_int32, c_size_t, c_uint32, c_void_p
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from runtimes.base import Port

DTYPES = {0: "uint8", 6: "float32"}
"""The numbers of PyTorch's scalar types."""
MOST_LENGTHS = 8

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "threads": (),
    "set_threads": (c_uint32,),
    "open": (c_char_p, c_size_t, POINTER(c_void_p)),
    "load": (c_void_p,),
    "close": (c_void_p,),
    "port_counts": (c_void_p, POINTER(c_size_t), POINTER(c_size_t)),
    "port": (c_void_p, c_int, c_size_t, POINTER(c_int32), POINTER(c_size_t), POINTER(c_int32)),
    "text": (c_void_p, c_char_p, c_char_p, c_size_t, POINTER(c_size_t)),
    "run": (c_void_p, c_void_p, c_int32, c_int32, c_void_p, c_size_t),
}
"""The types of the arguments of each function. All return an error code, but `threads` and `close`."""


class Library:
    """The functions of the compiled library. One that returns an error code raises a `RuntimeError` instead."""

    def __init__(self, compiled: ctypes.CDLL) -> None:
        for name, types in _SIGNATURES.items():
            function = getattr(compiled, f"libkd_{name}")
            function.argtypes = types
            function.restype = None if name == "close" else c_uint32 if name == "threads" else c_int
            if name not in ("close", "threads"):
                function.errcheck = cast(Any, _check)
        self._compiled: Any = compiled

    def threads(self) -> int:
        return int(self._compiled.libkd_threads())

    def set_threads(self, number: int) -> None:
        self._compiled.libkd_set_threads(number)

    def open(self, content: bytes) -> Program:
        return Program(self._compiled, content)


class Program:
    """A program, whose method `forward` is run."""

    def __init__(self, functions: Any, content: bytes) -> None:
        self._functions, self._content = functions, content  # the engine reads from the bytes as long as it runs
        self._address: c_void_p | None = c_void_p()
        functions.libkd_open(content, len(content), byref(self._address))

    def ports(self) -> tuple[list[Port], list[Port]]:
        inputs, outputs = c_size_t(), c_size_t()
        self._functions.libkd_port_counts(self._address, byref(inputs), byref(outputs))
        return [self._port(0, index) for index in range(inputs.value)], [
            self._port(1, index) for index in range(outputs.value)
        ]

    def _port(self, is_output: int, index: int) -> Port:
        dtype, rank, sizes = c_int32(), c_size_t(), (c_int32 * MOST_LENGTHS)()
        self._functions.libkd_port(self._address, is_output, index, byref(dtype), byref(rank), sizes)
        return Port(None, DTYPES.get(dtype.value, str(dtype.value)), tuple(sizes[: rank.value]))

    def text(self, method: str) -> str:
        length = c_size_t()
        for _ in range(2):  # once for the length, and once for the text
            text = ctypes.create_string_buffer(length.value)
            self._functions.libkd_text(self._address, method.encode(), text, len(text), byref(length))
        return text.raw.decode()

    def load(self) -> None:
        self._functions.libkd_load(self._address)

    def run(self, image: NDArray[np.uint8], answer: NDArray[np.float32]) -> None:
        if self._address is None:  # the engine would crash
            raise RuntimeError("the session is closed")
        height, width, _ = image.shape
        self._functions.libkd_run(self._address, image.ctypes.data, height, width, answer.ctypes.data, len(answer))

    def close(self) -> None:
        address, self._address = self._address, None
        if address:
            self._functions.libkd_close(address)

    __del__ = close


def _check(code: int, function: Any, arguments: tuple[Any, ...]) -> int:
    if code:
        raise RuntimeError(f"ExecuTorch's error 0x{code:x}")
    return code

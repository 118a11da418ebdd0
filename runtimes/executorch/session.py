"""The session that runs `model.pte` with ExecuTorch and XNNPACK on the CPU.

It is the only session that needs torch, because the engine's Python package needs it.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch  # before the engine, whose library is linked against it
from executorch.extension.pybindings import _C as engine
from numpy.typing import NDArray

from runtimes.base import (
    METADATA_KEY,
    ModelFiles,
    Port,
    Signature,
    check_ports,
    engine_failure,
    engine_failures,
)
from runtimes.cores import usable_cores
from runtimes.errors import EngineError
from runtimes.forks import no_fork

FILE = "model.pte"

_DTYPES = {0: "uint8", 6: "float32"}  # the numbers of PyTorch's scalar types


class Session:
    """One method behind a lock, because ExecuTorch does not promise that two threads may run a method at once.

    All sessions of a process share one thread pool, whose size can't change while one of them is open.
    """

    def __init__(self, files: ModelFiles, signature: Signature, precision: str, threads: int | None) -> None:
        self._place = files.place
        self._turn = threading.Lock()
        _pool.join(self, threads)
        try:
            self._load(files, signature)
        except BaseException:
            _pool.leave(self)
            raise

    def _load(self, files: ModelFiles, signature: Signature) -> None:
        with _loading(files) as program:
            inputs, outputs = _ports(program.method_meta("forward"))
            check_ports(files.place, inputs, outputs, signature)
            methods = [program.get_method_name(index) for index in range(program.num_methods())]
            self.manifest = str(program.load_method(METADATA_KEY)([])[0]) if METADATA_KEY in methods else ""
            self._forward: Any = program.load_method("forward")
            self._memory: Any = program, files.contents[FILE]  # the method points into it
            self._classes = signature.classes

    def run(self, pixels: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Return the probabilities; see `runtimes.base.Session`."""
        probabilities = np.empty((len(pixels), self._classes), np.float32)
        # The engine silently misreads any other layout, and torch warns of an array that can't be written.
        batch = torch.from_numpy(np.require(pixels, requirements=("C", "W")))
        try:
            with self._turn:
                for index, answer in enumerate(probabilities):  # the graph takes one image at a time
                    answer[:] = self._forward([batch[index : index + 1]])[0].numpy()[0]
        except Exception as fault:
            raise engine_failure(f"{self._place}: ExecuTorch", fault) from fault
        return probabilities

    def close(self) -> None:
        """Free the program and leave the thread pool."""
        with self._turn:
            self._forward = self._memory = None
        _pool.leave(self)


def _ports(about: Any) -> tuple[list[Port], list[Port]]:
    """Return the inputs and the outputs of a method, which have no names."""
    inputs = [about.input_tensor_meta(index) for index in range(about.num_inputs())]
    outputs = [about.output_tensor_meta(index) for index in range(about.num_outputs())]
    return list(map(_port, inputs)), list(map(_port, outputs))


def _port(tensor: Any) -> Port:
    return Port(None, _DTYPES.get(tensor.dtype(), str(tensor.dtype())), tuple(tensor.sizes()))


class _Pool:
    """The only thread pool of the process. Its size is set by the first open session: a reset is unsafe later."""

    def __init__(self) -> None:
        self._members: weakref.WeakSet[Session] = weakref.WeakSet()
        self._lock = threading.Lock()

    def join(self, session: Session, threads: int | None) -> None:
        with self._lock, quiet():
            current = engine._threadpool_get_thread_count()
            if not self._members:
                wanted = threads or usable_cores()
                if wanted != current:
                    engine._unsafe_reset_threadpool(wanted)
            elif threads not in (None, current):
                raise EngineError(
                    f"ExecuTorch already runs with threads={current} in this process; "
                    f"close its classifiers or use the same number, not {threads}"
                )
            self._members.add(session)

    def leave(self, session: Session) -> None:
        with self._lock:
            self._members.discard(session)


_pool = _Pool()


@contextmanager
def _loading(files: ModelFiles) -> Iterator[Any]:
    with quiet() as last_line, engine_failures(f"{files.place}: loading {FILE}"):
        try:
            yield engine._load_program_from_buffer(
                files.contents[FILE], program_verification=engine.Verification.InternalConsistency
            )
        except RuntimeError as fault:
            raise EngineError(f"{files.place}: loading {FILE} failed: {last_line() or fault}") from fault


_stderr_lock = threading.RLock()


@contextmanager
def quiet() -> Iterator[Callable[[], str]]:
    """Hide what native code writes to standard error. Yields a function that returns its last line."""
    with no_fork(), _stderr_lock, _unnamed_file() as kept:

        def last_line() -> str:
            kept.seek(0)
            return (kept.read().decode(errors="replace").strip().splitlines() or [""])[-1]

        with suppress(AttributeError, OSError, ValueError):
            sys.stderr.flush()
        try:
            stderr = os.dup(2)
        except OSError:  # a daemon without standard error
            yield last_line
            return
        os.dup2(kept.fileno(), 2)
        try:
            yield last_line
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _unnamed_file() -> IO[bytes]:
    """Return a file in memory, because a device may have no folder for temporary files; what is written may be lost."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "w+b")
    return Path(os.devnull).open("w+b")


def _after_fork_in_child() -> None:
    global _pool
    _pool = _Pool()  # the sessions of the parent stay there; the engine makes new threads by itself


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

"""The session that runs `model.pte` with ExecuTorch and XNNPACK on the CPU.

It calls the engine through a small library of ours, or, where that can't be compiled, through the engine's Python
module, which needs torch.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from runtimes.base import METADATA_KEY, ModelFiles, Port, Signature, check_ports, engine_failure, engine_failures
from runtimes.cores import usable_cores
from runtimes.errors import EngineError, EngineMissing
from runtimes.forks import no_fork

from . import native
from .library import native_runtime

FILE = "model.pte"

_LOG = re.compile(r"[A-Z] [\d:.]+ executorch:\S+\] ")
"""The start of a line in the engine's log: its kind, the time, and the place in the engine's source."""


class _Program(Protocol):
    """A program that `open` of a library returned."""

    def ports(self) -> tuple[list[Port], list[Port]]:
        """Return the inputs and the outputs, which have no names."""

    def text(self, method: str) -> str:
        """Return the string that a method without inputs returns, or "" if there is no such method."""

    def load(self) -> None:
        """Load the method `forward`, so that `run` can be called."""

    def run(self, image: NDArray[np.uint8], answer: NDArray[np.float32]) -> None:
        """Write the probabilities [classes] of an image [height, width, 3]; both arrays are C-contiguous."""

    def close(self) -> None:
        """Free the program."""


class _Library(Protocol):
    """The functions of the engine. All raise a `RuntimeError` where the engine fails."""

    def threads(self) -> int:
        """Return the number of threads of the process's only pool."""

    def set_threads(self, number: int) -> None:
        """Replace the pool, which nobody may use meanwhile."""

    def open(self, content: bytes) -> _Program:
        """Read the bytes of a `.pte` file."""


def _library() -> tuple[_Library, str]:
    """Return the functions of the engine, and how they are called."""
    compiled, reason = native_runtime()
    if compiled is not None:
        return native.Library(compiled), "its C++ runtime, without torch"
    try:
        from .torch_bound import Library
    except ModuleNotFoundError as fault:
        if fault.name != "torch":
            raise
        raise EngineMissing(
            f"ExecuTorch: needs a C++ compiler, or torch ({reason}); install g++ or clang, or pip install torch"
        ) from fault
    return Library(), f"its Python module and torch, because its C++ runtime can't be used ({reason})"


_engine, HOW = _library()


class Session:
    """One method behind a lock, because ExecuTorch does not promise that two threads may run a method at once.

    All sessions of a process share one thread pool, whose size can't change while one of them is open.
    """

    def __init__(self, files: ModelFiles, signature: Signature, precision: str, threads: int | None) -> None:
        self._place, self._classes = files.place, signature.classes
        self._turn = threading.Lock()
        _pool.join(self, threads)
        try:
            self._load(files, signature)
        except BaseException:
            _pool.leave(self)
            raise

    def _load(self, files: ModelFiles, signature: Signature) -> None:
        with _loading(files):
            self._program = _engine.open(files.contents[FILE])
            check_ports(files.place, *self._program.ports(), signature)
            self.manifest = self._program.text(METADATA_KEY)
            self._program.load()

    def run(self, pixels: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Return the probabilities; see `runtimes.base.Session`."""
        probabilities = np.empty((len(pixels), self._classes), np.float32)
        pixels = np.ascontiguousarray(pixels)  # the engine silently misreads any other layout
        try:
            with self._turn:
                for image, answer in zip(pixels, probabilities, strict=True):  # the graph takes one image at a time
                    with no_fork():  # the engine holds locks of its own while it computes
                        self._program.run(image, answer)
        except Exception as fault:
            raise engine_failure(f"{self._place}: ExecuTorch", fault) from fault
        return probabilities

    def close(self) -> None:
        """Free the program and leave the thread pool."""
        with self._turn:
            self._program.close()
        _pool.leave(self)


def carried_by(files: ModelFiles, signature: Signature) -> str:
    """Return the JSON that a `.pte` carries, after a check of its input and output, whatever its backend.

    Raises:
        BundleError: its input or output is another.
        EngineError: the engine can't read it.
    """
    with _loading(files):
        program = _engine.open(files.contents[FILE])
        check_ports(files.place, *program.ports(), signature)
        manifest = program.text(METADATA_KEY)
        program.close()
    return manifest


class _Pool:
    """The only thread pool of the process. Its size is set by the first open session: a reset is unsafe later."""

    def __init__(self) -> None:
        self._members: weakref.WeakSet[Session] = weakref.WeakSet()
        self._lock = threading.Lock()

    def join(self, session: Session, threads: int | None) -> None:
        with self._lock, quiet():
            current = _engine.threads()
            if not self._members:
                wanted = threads or usable_cores()
                if wanted != current:
                    _engine.set_threads(wanted)
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
def _loading(files: ModelFiles) -> Iterator[None]:
    with quiet() as last_line, engine_failures(f"{files.place}: loading {FILE}"):
        try:
            yield
        except RuntimeError as fault:
            raise EngineError(f"{files.place}: loading {FILE} failed: {last_line() or fault}") from fault


_stderr_lock = threading.RLock()


@contextmanager
def quiet() -> Iterator[Callable[[], str]]:
    """Hide what native code writes to standard error. Yields a function that returns its last line."""
    with no_fork(), _stderr_lock, _unnamed_file() as kept:

        def last_line() -> str:
            kept.seek(0)
            return _LOG.sub("", (kept.read().decode(errors="replace").strip().splitlines() or [""])[-1])

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

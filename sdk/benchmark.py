"""How fast bundles are on this machine, side by side.

Each bundle runs in a process of its own, because engines' thread pools disturb each other; and the processes take
turns, because a shared machine is faster in one minute than in the next.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import IO, TypeVar

import msgspec
import numpy as np

from runtimes.base import usable_cores

from . import errors
from .bundle import Bundle
from .classifier import Classifier
from .errors import EngineError, LibkdError, UsageError

T = TypeVar("T")


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """`Classifier.predict` of one bundle on an array that is ready for it: decoding and resizing are not in it."""

    bundle: str
    name: str
    target: str
    precision: str
    threads: int
    calls: int
    p50_ms: float
    p95_ms: float
    load_ms: float
    """From the path to a classifier, hashing included, imports not."""
    size_bytes: int


class _Task(msgspec.Struct, frozen=True):
    bundle: str
    threads: int | None


class _Loaded(msgspec.Struct, frozen=True):
    load_ms: float = 0.0
    error: tuple[str, str] | None = None
    """The name of a class in `errors`, and what it says."""


def measure(
    bundles: Iterable[Bundle | str | os.PathLike[str]], *, rounds: int = 10, calls: int = 20, threads: int | None = None
) -> list[Measurement]:
    """Time `rounds` turns of `calls` predictions of every bundle. `threads` is what each engine may use.

    Raises:
        UsageError: no bundles, or no calls.
        BundleError: a bundle is damaged.
        EngineError: a bundle can't be loaded or run.
    """
    opened = [bundle if isinstance(bundle, Bundle) else Bundle.open(bundle) for bundle in bundles]
    if not opened or rounds < 1 or calls < 1:
        raise UsageError("a benchmark needs a bundle, and at least one round of one call")
    with ExitStack() as stack:
        workers = [stack.enter_context(_Worker(bundle, threads)) for bundle in opened]
        for worker in workers:
            worker.load()
        for _ in range(rounds):
            for worker in workers:
                worker.run(calls)
        return [worker.measurement() for worker in workers]


class _Worker:
    """This end of a process that holds one bundle; the other end is `serve`."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self._bundle = bundle
        self._threads = threads
        self._latencies_ms: list[float] = []

        self._process = subprocess.Popen(
            [sys.executable, "-m", "sdk.benchmark"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError), self._process:  # closes its standard input, which ends it
            pass

    def load(self) -> None:
        task = _Task(str(self._bundle.path.absolute()), self._threads)
        loaded = msgspec.json.decode(self._ask(task), type=_Loaded)
        if loaded.error is not None:
            kind, message = loaded.error
            raise vars(errors)[kind](message)
        self._load_ms = loaded.load_ms

    def run(self, calls: int) -> None:
        self._latencies_ms += msgspec.json.decode(self._ask(calls), type=list[float])

    def measurement(self) -> Measurement:
        p50, p95 = np.percentile(self._latencies_ms, (50, 95))
        return Measurement(
            bundle=str(self._bundle.path),
            name=self._bundle.manifest.name,
            target=self._bundle.target,
            precision=self._bundle.precision,
            threads=self._threads or usable_cores(),
            calls=len(self._latencies_ms),
            p50_ms=float(p50),
            p95_ms=float(p95),
            load_ms=self._load_ms,
            size_bytes=self._bundle.size_bytes,
        )

    def _ask(self, message: object) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = b""
        with suppress(BrokenPipeError):
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise EngineError(f"{self._bundle.path}: its process ended with status {self._process.wait()}")
        return line


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """The other end: load what the first line names, then time as many calls as each further line says."""
    try:
        classifier, load_ms = _load(msgspec.json.decode(requests.readline(), type=_Task))
    except LibkdError as fault:
        _answer(answers, _Loaded(error=(type(fault).__name__, str(fault))))
        return
    _answer(answers, _Loaded(load_ms))
    assert classifier.bundle is not None
    input = classifier.bundle.input
    picture = np.random.default_rng(0).integers(0, 256, (input.height, input.width, 3), np.uint8)
    for line in requests:
        _answer(answers, [_timed_ms(lambda: classifier.predict(picture))[1] for _ in range(int(line))])


def _load(task: _Task) -> tuple[Classifier, float]:
    Classifier(task.bundle, threads=task.threads).close()  # imports the engine, which is not the bundle's fault
    classifier, load_ms = _timed_ms(lambda: Classifier(task.bundle, threads=task.threads))
    classifier.warm_up()
    return classifier, load_ms


def _timed_ms(action: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = action()
    return result, 1000 * (time.perf_counter() - start)


def _answer(answers: IO[bytes], message: object) -> None:
    answers.write(msgspec.json.encode(message) + b"\n")
    answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other end, which then closes this one's input
    with os.fdopen(os.dup(1), "wb") as pipe:
        os.dup2(2, 1)  # what an engine prints does not belong into the answers
        serve(sys.stdin.buffer, pipe)

"""How fast, how large and how good bundles are on this machine, side by side, and beside their engine called bare.

Each runs in a process of its own, because engines' thread pools disturb each other; and the processes take turns,
because a shared machine is faster in one minute than in the next.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from runtimes.base import usable_cores
from runtimes.engines import load_bare, load_runtime, open_bare

from . import errors
from .bundle import Bundle
from .classifier import Classifier
from .errors import EngineError, LibkdError, UsageError
from .images import ImageSource

T = TypeVar("T")

BATCH = 32
"""Pictures that are given at once where throughput is measured."""
PAUSE_S = 0.1
"""Before every turn: threads of ONNX Runtime, by its defaults, keep a core busy for 40 ms after the last one."""


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Of pictures that are ready as arrays: decoding and resizing are not in it.

    Attributes:
        calls: of one picture each, from which the percentiles are.
        per_second: pictures, `BATCH` given at once.
        load_ms: from the path to the first answer, imports not included.
        peak_bytes: of memory, of the whole process after the first answers; None where the system does not tell.
    """

    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    per_second: float
    load_ms: float
    peak_bytes: int | None


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle through `Classifier`, and its file through the engine's own call with as many threads.

    `top1` is what the bundle's proof says, until somebody measures it on other pictures.
    """

    bundle: str
    name: str
    target: str
    precision: str
    threads: int
    size_bytes: int
    speed: Speed
    bare: Speed | None
    top1: float | None


class _Task(msgspec.Struct, frozen=True):
    bundle: str
    threads: int | None
    bare: bool


class _Loaded(msgspec.Struct, frozen=True):
    load_ms: float = 0.0
    peak_bytes: int | None = None
    error: tuple[str, str] | None = None
    """The name of a class in `errors`, and what it says."""


class _Turn(msgspec.Struct, frozen=True):
    calls_ms: list[float]
    batch_ms: float


def measure(
    bundles: Iterable[Bundle | str | os.PathLike[str]],
    *,
    rounds: int = 10,
    calls: int = 20,
    threads: int | None = None,
    bare: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Measurement]:
    """Time `rounds` turns of `calls` predictions and one batch of every bundle.

    Args:
        threads: what each engine may use; by default, the cores that this process may use.
        bare: whether the engine alone is measured as well.
        progress: is told how many turns of how many are over.

    Raises:
        UsageError: no bundles, or no calls.
        BundleError: a bundle is damaged.
        EngineError: a bundle can't be loaded or run.
    """
    opened = [bundle if isinstance(bundle, Bundle) else Bundle.open(bundle) for bundle in bundles]
    if not opened or rounds < 1 or calls < 1:
        raise UsageError("a benchmark needs a bundle, and at least one round of one call")
    with ExitStack() as stack:
        ways = [False, True] if bare else [False]
        workers = [[stack.enter_context(_Worker(bundle, threads, way)) for way in ways] for bundle in opened]
        everyone = [worker for pair in workers for worker in pair]
        for worker in everyone:
            worker.load()
        for done in range(rounds):
            progress(done, rounds)
            for worker in everyone:
                worker.run(calls)
        progress(rounds, rounds)
        return [
            Measurement(
                bundle=str(bundle.path),
                name=bundle.manifest.name,
                target=bundle.target,
                precision=bundle.precision,
                threads=threads or usable_cores(),
                size_bytes=bundle.size_bytes,
                speed=pair[0].speed(),
                bare=pair[1].speed() if bare else None,
                top1=bundle.manifest.proof.top1 if bundle.manifest.proof else None,
            )
            for bundle, pair in zip(opened, workers, strict=True)
        ]


def top1(bundle: Bundle, pictures: Iterable[ImageSource], labels: Sequence[int], threads: int | None = None) -> float:
    """The share of pictures that the bundle calls by their label, which is an index of `bundle.labels`.

    Raises:
        ImageError: a picture can't be read.
        EngineError: the bundle can't be loaded or run.
    """
    with Classifier(bundle.path, threads=threads) as classifier:
        answers = [answer.probabilities.argmax() for answer in classifier.stream(pictures)]
    return float(np.mean(np.array(answers) == np.array(labels)))


class _Worker:
    """This end of a process that holds one bundle; the other end is `serve`."""

    def __init__(self, bundle: Bundle, threads: int | None, bare: bool) -> None:
        self._bundle = bundle
        self._task = _Task(str(bundle.path.absolute()), threads, bare)
        self._turns: list[_Turn] = []

        self._process = subprocess.Popen(
            [sys.executable, "-m", "sdk.benchmark"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError), self._process:  # closes its standard input, which ends it
            pass

    def load(self) -> None:
        self._loaded = msgspec.json.decode(self._ask(self._task), type=_Loaded)
        if self._loaded.error is not None:
            kind, message = self._loaded.error
            raise vars(errors)[kind](message)

    def run(self, calls: int) -> None:
        time.sleep(PAUSE_S)
        self._turns.append(msgspec.json.decode(self._ask(calls), type=_Turn))

    def speed(self) -> Speed:
        latencies_ms = [latency for turn in self._turns for latency in turn.calls_ms]
        p50, p95, p99 = np.percentile(latencies_ms, (50, 95, 99))
        return Speed(
            calls=len(latencies_ms),
            p50_ms=float(p50),
            p95_ms=float(p95),
            p99_ms=float(p99),
            per_second=1000 * BATCH / float(np.median([turn.batch_ms for turn in self._turns])),
            load_ms=self._loaded.load_ms,
            peak_bytes=self._loaded.peak_bytes,
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
    if not (first := requests.readline()):
        return  # another process failed before this one's turn came
    task = msgspec.json.decode(first, type=_Task)
    draw = np.random.default_rng(0)
    try:
        bundle = Bundle.open(task.bundle)
        pictures = draw.integers(0, 256, (BATCH, bundle.input.height, bundle.input.width, 3), np.uint8)
        (load_bare if task.bare else load_runtime)(bundle.target)
        (one, many), load_ms = _timed_ms(lambda: _first_answer(_open(task, bundle), pictures))
    except LibkdError as fault:
        _answer(answers, _Loaded(error=(type(fault).__name__, str(fault))))
        return
    _answer(answers, _Loaded(load_ms, peak_bytes()))
    for line in requests:
        calls_ms = [_timed_ms(lambda: one(pictures[0]))[1] for _ in range(int(line))]
        _answer(answers, _Turn(calls_ms, _timed_ms(lambda: many(pictures))[1]))


_Calls = tuple[Callable[[NDArray[np.uint8]], object], Callable[[NDArray[np.uint8]], object]]


def _open(task: _Task, bundle: Bundle) -> _Calls:
    """How one picture is predicted, and how several are."""
    if task.bare:
        call = open_bare(bundle.target, bundle.path, task.threads or usable_cores(), bundle.precision)
        return lambda picture: call(picture[None]), call
    classifier = Classifier(task.bundle, threads=task.threads)
    return classifier.predict, classifier.predict_batch


def _first_answer(calls: _Calls, pictures: NDArray[np.uint8]) -> _Calls:
    calls[0](pictures[0])
    return calls


def peak_bytes() -> int | None:
    """The most memory that this process has had, of which its parent's before it began is no part."""
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


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

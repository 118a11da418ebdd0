"""Benchmarks: speed, size and accuracy of bundles on this machine, next to a bare call of their engine.

Each bundle runs in its own process, because the thread pools of engines disturb each other. The processes take turns,
because a shared machine is faster in one minute than in the next.
"""

from __future__ import annotations

import json
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

from runtimes.cores import Threads, fastest, usable_cores
from runtimes.engines import check_runs_here, load_bare, load_runtime, open_bare

from . import errors
from .bundle import Bundle
from .children import python
from .classifier import Classifier
from .errors import EngineError, EngineMissing, LibkdError, UsageError
from .images import ImageSource
from .traces import remove_unused_compiler_cache

T = TypeVar("T")

BATCH = 32
"""Number of images that are given at once when throughput is measured."""
STEADY = 1.25
"""The largest ratio of a quartile and the median of times that can be compared with others."""
PAUSE_S = 0.1
"""Pause before every turn: by default, threads of ONNX Runtime keep a core busy for 40 ms after a call."""


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """The speed on images that are ready as arrays: decoding and resizing are not included.

    Attributes:
        calls: number of timed calls with one image each.
        p25_ms, p50_ms, p75_ms, p95_ms, p99_ms: percentiles of the time of a call, in milliseconds.
        per_second: images per second, with `BATCH` images per call.
        load_ms: milliseconds from the path to the first answer, without imports.
        peak_bytes: peak memory of the whole process after the first answers; None if the system does not report it.
    """

    calls: int
    p25_ms: float
    p50_ms: float
    p75_ms: float
    p95_ms: float
    p99_ms: float
    per_second: float
    load_ms: float
    peak_bytes: int | None

    @property
    def is_steady(self) -> bool:
        """True if the calls took about the same time: their quartiles are within a quarter of their median."""
        return self.p75_ms <= STEADY * self.p50_ms and self.p50_ms <= STEADY * self.p25_ms


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """The measurements of one bundle.

    Attributes:
        bundle: the path of its folder.
        threads: number of threads of the engine.
        arch: the model's architecture, as its manifest says.
        input_size: the height of its input in pixels.
        size_bytes: size of the engine's files.
        speed: the speed of `Classifier`.
        bare: the speed of the engine's own call on the same file with as many threads; None if it was not measured.
        top1: accuracy between 0 and 1, from the bundle's proof or measured on other images; None if it is unknown.
        judged_on: the images that `top1` comes from, in words; if they differ, accuracies can't be compared.
    """

    bundle: str
    name: str
    target: str
    precision: str
    threads: int
    arch: str
    input_size: int
    size_bytes: int
    speed: Speed
    bare: Speed | None
    top1: float | None
    judged_on: str | None = None


class _Task(msgspec.Struct, frozen=True):
    threads: int | None
    bare: bool


class _Loaded(msgspec.Struct, frozen=True):
    load_ms: float = 0.0
    peak_bytes: int | None = None
    error: tuple[str, str] | None = None
    """The name of a class in `errors`, and its message."""


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
        bundles: bundles, or the paths of their folders.
        rounds: number of turns.
        calls: number of timed predictions in a turn.
        threads: number of threads of each engine; by default, the cores that this process may use.
        bare: whether the engine alone is measured as well, if what its own call needs is installed.
        progress: a function that is told the number of finished turns, and of all turns.

    Returns:
        The measurements, in the order of the bundles.

    Raises:
        UsageError: there are no bundles or no calls.
        BundleError: a bundle is damaged.
        EngineError: a bundle can't be loaded or run, or only runs elsewhere.
    """
    opened = [bundle if isinstance(bundle, Bundle) else Bundle.open(bundle) for bundle in bundles]
    if not opened or rounds < 1 or calls < 1:
        raise UsageError("a benchmark needs a bundle, and at least one round of one call")
    for bundle in opened:
        check_runs_here(bundle.target, bundle.manifest.backend, str(bundle.path))
    with ExitStack() as stack:
        ways = [False, True] if bare else [False]
        workers = [[stack.enter_context(_Worker(bundle, threads, way)) for way in ways] for bundle in opened]
        loaded = [[worker for worker in pair if worker.load()] for pair in workers]
        everyone = [worker for pair in loaded for worker in pair]
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
                arch=bundle.manifest.model.arch,
                input_size=bundle.input.height,
                size_bytes=bundle.size_bytes,
                speed=pair[0].speed(),
                bare=pair[1].speed() if len(pair) > 1 else None,
                top1=bundle.manifest.proof.top1 if bundle.manifest.proof else None,
                judged_on=_judged_on(bundle),
            )
            for bundle, pair in zip(opened, loaded, strict=True)
        ]


def _judged_on(bundle: Bundle) -> str | None:
    """Return what the manifest says about the images of the proof."""
    if bundle.manifest.proof is None:
        return None
    data = bundle.manifest.model.trained_on
    trained_on = f", for a net trained on {data}" if data else ""
    return f"{bundle.manifest.proof.images:,} images of {len(bundle.labels)} classes{trained_on}"


def fastest_threads(bundle: Bundle, calls: int = 20) -> Threads:
    """Return the number of threads with which a bundle is the fastest at this moment.

    Each number runs in a process of its own. Their start takes seconds.

    Raises:
        EngineError: the bundle can't be loaded or run.
    """
    with ExitStack() as stack:
        workers: dict[int, _Worker] = {}

        def seconds(threads: int) -> float:
            if threads not in workers:
                workers[threads] = stack.enter_context(_Worker(bundle, threads, bare=False))
                workers[threads].load()
            return workers[threads].run(calls)

        return fastest(usable_cores(), seconds)


def top1(bundle: Bundle, images: Iterable[ImageSource], labels: Sequence[int], threads: int | None = None) -> float:
    """Return the share of images that the bundle classifies correctly; a label is an index of `bundle.labels`.

    Raises:
        ImageError: an image can't be read.
        EngineError: the bundle can't be loaded or run.
    """
    with Classifier(bundle.path, threads=threads) as classifier:
        answers = [answer.probabilities.argmax() for answer in classifier.stream(images)]
    return float(np.mean(np.array(answers) == np.array(labels)))


class _Worker:
    """The parent's end of a process that holds one bundle; the child runs `serve`."""

    def __init__(self, bundle: Bundle, threads: int | None, bare: bool) -> None:
        self._bundle = bundle
        self._task = _Task(threads, bare)
        self._turns: list[_Turn] = []

        self._process = subprocess.Popen(  # the path is an argument because JSON can't hold every path
            [*python(__name__), bundle.path.absolute()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError), self._process:  # closing its standard input ends it
            pass

    def load(self) -> bool:
        """Load the bundle, and return True; False if the engine's own call needs a library that is not installed."""
        self._loaded = msgspec.convert(self._ask(self._task), _Loaded)
        if self._loaded.error is None:
            return True
        kind, message = self._loaded.error
        if self._task.bare and kind == EngineMissing.__name__:
            return False
        raise vars(errors)[kind](message)

    def run(self, calls: int) -> float:
        """Do a turn, and return the median seconds of its calls."""
        time.sleep(PAUSE_S)
        self._turns.append(msgspec.convert(self._ask(calls), _Turn))
        return float(np.median(self._turns[-1].calls_ms)) / 1000

    def speed(self) -> Speed:
        latencies_ms = [latency for turn in self._turns for latency in turn.calls_ms]
        p25, p50, p75, p95, p99 = np.percentile(latencies_ms, (25, 50, 75, 95, 99))
        return Speed(
            calls=len(latencies_ms),
            p25_ms=float(p25),
            p50_ms=float(p50),
            p75_ms=float(p75),
            p95_ms=float(p95),
            p99_ms=float(p99),
            per_second=1000 * BATCH / float(np.median([turn.batch_ms for turn in self._turns])),
            load_ms=self._loaded.load_ms,
            peak_bytes=self._loaded.peak_bytes,
        )

    def _ask(self, message: object) -> object:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = b""
        with suppress(BrokenPipeError):
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise EngineError(f"{self._bundle.path}: its process ended with status {self._process.wait()}")
        return json.loads(line)


def serve(folder: str, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Run the child: load the bundle as the first line says, then time as many calls as each further line says."""
    if not (first := requests.readline()):
        return  # another process failed before it was this one's turn
    task = msgspec.json.decode(first, type=_Task)
    draw = np.random.default_rng(0)
    try:
        bundle = Bundle.open(folder)
        images = draw.integers(0, 256, (BATCH, bundle.input.height, bundle.input.width, 3), np.uint8)
        (load_bare if task.bare else load_runtime)(bundle.target)
        (one, many), load_ms = _timed_ms(lambda: _first_answer(_open(task, bundle), images))
    except LibkdError as fault:
        _answer(answers, _Loaded(error=(type(fault).__name__, str(fault))))
        return
    _answer(answers, _Loaded(load_ms, peak_bytes()))
    for line in requests:
        calls_ms = [_timed_ms(lambda: one(images[0]))[1] for _ in range(int(line))]
        _answer(answers, _Turn(calls_ms, _timed_ms(lambda: many(images))[1]))


_Calls = tuple[Callable[[NDArray[np.uint8]], object], Callable[[NDArray[np.uint8]], object]]


def _open(task: _Task, bundle: Bundle) -> _Calls:
    """Return two functions: one predicts one image, the other several."""
    if task.bare:
        os.chdir(bundle.path)  # not every engine takes every path
        call = open_bare(bundle.target, Path(), task.threads or usable_cores(), bundle.precision)
        return lambda image: call(image[None]), call
    classifier = Classifier(bundle.path, threads=task.threads)
    return classifier.predict, classifier.predict_batch


def _first_answer(calls: _Calls, images: NDArray[np.uint8]) -> _Calls:
    calls[0](images[0])
    return calls


def peak_bytes() -> int | None:
    """Return the peak memory of this process, without the memory of its parent before it started."""
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
    answers.write(json.dumps(msgspec.to_builtins(message)).encode() + b"\n")  # it takes every path in an error
    answers.flush()


def main() -> None:
    """Be the child, which answers on standard output."""
    remove_unused_compiler_cache()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent closes this process's input
    with os.fdopen(os.dup(1), "wb") as pipe:
        os.dup2(2, 1)  # output of an engine must not mix with the answers
        serve(sys.argv[1], sys.stdin.buffer, pipe)

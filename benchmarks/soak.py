"""Predict from eight threads for an hour, and compare every answer with that of a single thread.

    python benchmarks/soak.py [--minutes 60] [--targets onnx,openvino,executorch] [--bundles FOLDER] [--json]

Each engine has a process of its own, and all of them run at the same time. The threads share one `Classifier`. They
predict good and bad images, one by one, in batches and as streams, and leave many streams half-read. Beside them, one
thread opens, uses and closes other classifiers of the same bundle, and one forks the process while a stream is
half-read. At two minutes, at ten and at the end everybody waits for a moment, and memory, threads and descriptors are
counted; ten minutes count as warm. glibc is told to give freed memory back (`ALLOCATOR`), because by default the memory
varies by a fifth between pauses.

The exit code is 1 if an answer was wrong, a child was lost, memory grew by more than 2 %, or a thread or a descriptor
is left over. A process that hangs says where its threads stand, and ends.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import sdk
from runtimes.engines import RUNNABLE
from sdk.images import ImageSource

THREADS, THREADS_OF_ENGINE = 8, 2
EARLY_S, WARM_S = 120.0, 600.0
"""When memory is counted first, and when everything counts as warm, in seconds."""
FORK_EVERY_S = 3.0
CHILD_S = 60
"""Seconds after which a forked child counts as hanging."""
LATE_S = 600
"""Seconds after the end at which the process itself counts as hanging."""
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
"""Without these, glibc keeps up to 64 MB of freed memory in each of eight places for every core."""
GROWTH = 0.02
ROUNDING = 1e-6
"""A batch is computed in other blocks than one image, so that its last digits may differ."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--targets", default=",".join(RUNNABLE))
    parser.add_argument("--bundles", type=Path, help="a folder with a bundle for each target, instead of a small net's")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--bundle", type=Path, help="load this bundle, in this process")
    arguments = parser.parse_args()
    if arguments.bundle:
        print(json.dumps(_soak(arguments.bundle, 60 * arguments.minutes)))
        return
    targets = arguments.targets.split(",")
    with tempfile.TemporaryDirectory() as folder:
        folder_of = arguments.bundles or Path(folder)
        if not arguments.bundles:
            _export(targets, folder_of)
        command = [sys.executable, __file__, "--minutes", str(arguments.minutes), "--bundle"]
        start = partial(subprocess.Popen, stdout=subprocess.PIPE, env={**os.environ, **ALLOCATOR})
        jobs = [start([*command, folder_of / target]) for target in targets]
        rows = [json.loads(job.communicate()[0] or '{"faults": ["the process died"]}') for job in jobs]
    rows = [{"target": target, **row} for target, row in zip(targets, rows, strict=True)]
    print(json.dumps(rows, indent=2) if arguments.json else "\n".join(map(_text, rows)))
    sys.exit(any(row["faults"] for row in rows))


def _export(targets: list[str], folder: Path) -> None:
    """Write a bundle of a small student with random weights for each target."""
    import torch

    from trainer.models import Student

    torch.manual_seed(0)
    module, preprocessing = Student(size=32, classes=10, teachers=2).eval(), sdk.Preprocessing.square(32)
    for target in targets:
        sdk.export(module, target=target, out=folder / target, labels=list("abcdefghij"), preprocessing=preprocessing)


class Counts(NamedTuple):
    """The process while nobody works: its bytes of memory, its threads and its descriptors."""

    memory: int
    threads: int
    descriptors: int


class Images:
    """Good and bad images, and the answers that a single thread gets: probabilities, or the message of an error."""

    def __init__(self, folder: Path, classifier: sdk.Classifier) -> None:
        draw = np.random.default_rng(0)
        size = (classifier.input.height, classifier.input.width)
        self.sources: list[Callable[[], ImageSource]] = []
        for number, (height, width) in enumerate([size, size, (70, 90), (400, 300), (900, 1200)]):
            coarse = Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8))
            image = coarse.resize((width, height), Image.Resampling.BICUBIC)
            files = {kind: folder / f"{number}.{kind}" for kind in ("png", "jpeg", "webp")}
            for file in files.values():
                image.save(file)
            self._add(np.asarray(image), image, files["jpeg"].read_bytes(), files["webp"])
            self.sources.append(partial(_open, files["png"]))
        half = files["jpeg"].read_bytes()[:5000]
        (folder / "half.jpeg").write_bytes(half)
        self._add(b"", b"no image", half, folder / "half.jpeg", folder / "missing.png", np.zeros((4, 4), np.uint8))
        self.expected = [_answer(classifier, source()) for source in self.sources]

    def _add(self, *sources: ImageSource) -> None:
        self.sources += [lambda source=source: source for source in sources]  # type: ignore[misc]


def _open(path: Path) -> ImageSource:
    return io.BytesIO(path.read_bytes())


def _answer(classifier: sdk.Classifier, source: ImageSource) -> bytes | str:
    return _content(classifier.predict_batch([source], errors="return")[0])


def _content(outcome: sdk.Prediction | sdk.ImageError) -> bytes | str:
    return str(outcome) if isinstance(outcome, sdk.ImageError) else outcome.probabilities.tobytes()


class Soak:
    """The threads of one process, which share a classifier, and what they found."""

    def __init__(self, bundle: Path, images: Images, classifier: sdk.Classifier) -> None:
        self.bundle, self.images, self.classifier = bundle, images, classifier
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.largest = 0.0
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._jobs = [*[self._predict] * THREADS, self._open_and_close, self._fork]
        self._slots = threading.Semaphore(len(self._jobs))
        self._go = threading.Event()
        self._go.set()
        turns = zip(self._jobs, map(random.Random, itertools.count()), strict=False)
        self._threads = [threading.Thread(target=self._repeat, args=turn) for turn in turns]

    def __enter__(self) -> Soak:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join()

    def paused_after(self, seconds: float) -> Counts:
        """Let everybody work for a time, then wait, and count what the process has."""
        self.over.wait(seconds)
        self._go.clear()
        for _ in self._jobs:
            self._slots.acquire()
        gc.collect()
        memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        looks = []
        for _ in range(20):  # a thread of a dropped stream, or one that was joined, is there for another moment
            looks.append([len(list(Path("/proc/self", kind).iterdir())) for kind in ("task", "fd")])
            time.sleep(0.05)
        threads, descriptors = map(min, zip(*looks, strict=True))
        self._slots.release(len(self._jobs))
        self._go.set()
        return Counts(memory, threads, descriptors)

    def _repeat(self, job: Callable[[random.Random], None], draw: random.Random) -> None:
        while not self.over.is_set() and len(self.faults) < 20:
            self._go.wait()
            try:
                with self._slots:
                    job(draw)
            except BaseException as fault:
                self._fault(f"{job.__name__}: {type(fault).__name__}: {fault}")
            if job == self._fork:
                self.over.wait(FORK_EVERY_S)

    def _predict(self, draw: random.Random) -> None:
        draw.choice((self._one, self._one, self._batch, self._stream, self._left_stream))(draw)

    def _one(self, draw: random.Random) -> None:
        (number,) = self._numbers(draw, 1)
        try:
            found: sdk.Prediction | sdk.ImageError = self.classifier.predict(self.images.sources[number]())
        except sdk.ImageError as fault:
            found = fault
        self._check(number, found)

    def _batch(self, draw: random.Random) -> None:
        numbers = self._numbers(draw, draw.randint(0, 12))
        found = self.classifier.predict_batch(self._sources(numbers), errors="return")
        for number, outcome in zip(numbers, found, strict=True):
            self._check(number, outcome, ROUNDING)

    def _stream(self, draw: random.Random) -> None:
        numbers, size = self._numbers(draw, draw.randint(0, 12)), draw.randint(1, 4)
        stream = self.classifier.stream(
            self._sources(numbers), batch_size=size, workers=draw.randint(1, 3), errors="return"
        )
        for number, outcome in zip(numbers, stream, strict=True):
            self._check(number, outcome, 0 if size == 1 else ROUNDING)

    def _left_stream(self, draw: random.Random) -> None:
        """Take a few answers of a stream, and close it, drop it, or leave it to the garbage collector."""
        numbers = self._numbers(draw, 12)
        stream = self.classifier.stream(self._sources(numbers), workers=draw.randint(1, 3), errors="return")
        for number, outcome in zip(numbers[: draw.randint(1, 5)], stream, strict=False):
            self._check(number, outcome)
        how = draw.choice(("close", "drop", "collect"))
        if how == "close":
            stream.close()  # type: ignore[attr-defined]  # it is a generator, which the annotation leaves open
        elif how == "collect":
            circle: list[object] = [stream]
            circle.append(circle)
        self._count("streams left")

    def _open_and_close(self, draw: random.Random) -> None:
        """Close a classifier while two threads predict with it."""
        numbers, answered = self._numbers(draw, 4), threading.Semaphore(0)
        classifier = sdk.Classifier(self.bundle, threads=THREADS_OF_ENGINE)

        def use() -> None:
            for number in itertools.cycle(numbers):
                try:
                    (outcome,) = classifier.predict_batch([self.images.sources[number]()], errors="return")
                except sdk.UsageError:  # it is closed
                    return
                finally:
                    answered.release()
                self._check(number, outcome)

        with ThreadPoolExecutor(2) as pool:
            users = [pool.submit(use) for _ in range(2)]
            for _ in range(draw.randint(2, 20)):
                answered.acquire()
            classifier.close()
            for user in users:
                user.result()
        self._count("closed in use")

    def _fork(self, draw: random.Random) -> None:
        """Fork while a stream is half-read: the child is told, and predicts for itself; the parent reads on."""
        numbers = self._numbers(draw, 12)
        stream = self.classifier.stream(self._sources(numbers), errors="return")
        self._check(numbers[0], next(stream))
        child = os.fork()
        if child == 0:
            faulthandler.register(signal.SIGALRM, chain=True)  # a child that hangs says where, and is ended
            signal.alarm(CHILD_S)
            os._exit(self._in_child(stream, numbers[0]))
        for number, outcome in zip(numbers[1:], stream, strict=True):
            self._check(number, outcome)
        _, status = os.waitpid(child, 0)
        if status:
            self._fault(f"a forked child ended with {status}")
        self._count("forks")

    def _in_child(self, stream: Iterator[object], number: int) -> int:
        try:
            next(stream)
        except sdk.UsageError:
            pass
        else:
            return 2
        try:
            return 0 if _answer(self.classifier, self.images.sources[number]()) == self.images.expected[number] else 3
        except sdk.EngineError as fault:
            return 0 if "forked" in str(fault) else 4
        except BaseException:
            return 5

    def _numbers(self, draw: random.Random, count: int) -> list[int]:
        return draw.choices(range(len(self.images.sources)), k=count)

    def _sources(self, numbers: list[int]) -> Iterator[ImageSource]:
        return (self.images.sources[number]() for number in numbers)

    def _check(self, number: int, outcome: sdk.Prediction | sdk.ImageError, tolerance: float = 0) -> None:
        found, expected = _content(outcome), self.images.expected[number]
        difference = 0.0
        if isinstance(found, bytes) and isinstance(expected, bytes):
            difference = float(np.abs(np.frombuffer(found, np.float32) - np.frombuffer(expected, np.float32)).max())
        elif found != expected:
            difference = 1.0
        self._count("predictions" if isinstance(found, bytes) else "refused images")
        with self._lock:
            self.largest = max(self.largest, difference)
        if not difference <= tolerance:
            self._fault(f"image {number}: off by {difference}")

    def _count(self, name: str) -> None:
        with self._lock:
            self.counts[name] += 1

    def _fault(self, text: str) -> None:
        with self._lock:
            self.faults.append(text)


def _soak(bundle: Path, seconds: float) -> dict[str, Any]:
    """Return the figures of one bundle."""
    faulthandler.dump_traceback_later(seconds + LATE_S, exit=True)
    with tempfile.TemporaryDirectory() as folder, sdk.Classifier(bundle, threads=THREADS_OF_ENGINE) as classifier:
        images = Images(Path(folder), classifier)
        moments = (min(EARLY_S, seconds / 4), min(WARM_S, seconds / 2), seconds)
        with Soak(bundle, images, classifier) as soak:
            early, warm, end = [soak.paused_after(last - first) for first, last in pairwise((0, *moments))]
        growth, faults = end.memory / warm.memory - 1, list(soak.faults)
        if growth > GROWTH:
            faults.append(f"memory grew by {growth:.1%}")
        if end.threads > warm.threads or end.descriptors > warm.descriptors:
            faults.append("threads or descriptors are left over")
        return {
            "minutes": seconds / 60,
            **soak.counts,
            "largest difference": soak.largest,
            "growth": growth,
            "early": early._asdict(),
            "when warm": warm._asdict(),
            "at the end": end._asdict(),
            "faults": faults,
        }


def _text(row: dict[str, Any]) -> str:
    return "\n".join([row["target"], *(f"  {name}: {value}" for name, value in row.items() if name != "target")])


if __name__ == "__main__":
    main()

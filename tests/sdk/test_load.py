"""A classifier under load: closed while threads predict, streams that are left half-read, and all of it at once."""

from __future__ import annotations

import gc
import io
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from patterns import SIZE, patterns
from programs import run
from runtimes.engines import RUNNABLE
from sdk import Classifier, EngineError, ImageError, Preprocessing, UsageError
from sdk.testing import FakeSession

INPUT = Preprocessing.square(SIZE).input


def fake(session: FakeSession | None = None) -> Classifier:
    return Classifier.with_session(session or FakeSession([0.9, 0.1]), labels=["cat", "dog"], input=INPUT)


class Slow(FakeSession):
    """A session whose calls last until `go`."""

    def __init__(self) -> None:
        super().__init__([0.9, 0.1])
        self.running, self.go = threading.Event(), threading.Event()

    def run(self, pixels):
        self.running.set()
        assert self.go.wait(30)
        assert not self.closed
        return super().run(pixels)


class TestClosing:
    def test_a_running_call_gets_its_answer_and_a_later_one_is_refused(self):
        session = Slow()
        classifier = fake(session)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(classifier.predict, patterns(1, 0)[0])
            assert session.running.wait(30)
            classifier.close()
            with pytest.raises(UsageError, match="closed"):
                classifier.predict(patterns(1, 0)[0])
            assert not session.closed
            session.go.set()
            assert running.result(30).label == "cat"
        assert session.closed

    def test_a_call_may_close_it_itself(self):
        class Closes(FakeSession):
            def run(self, pixels):
                classifier.close()
                assert not self.closed
                return super().run(pixels)

        session = Closes([0.9, 0.1])
        classifier = fake(session)
        assert classifier.predict(patterns(1, 0)[0]).label == "cat"
        assert session.closed

    def test_a_call_that_fails_does_not_keep_it_open(self):
        class Breaks(FakeSession):
            def run(self, pixels):
                raise EngineError("broken")

        session = Breaks([0.9, 0.1])
        classifier = fake(session)
        with pytest.raises(EngineError, match="broken"):
            classifier.predict(patterns(1, 0)[0])
        classifier.close()
        assert session.closed

    @pytest.mark.parametrize("target", RUNNABLE)
    def test_while_threads_predict_all_get_an_answer_or_a_refusal(self, target, bundles):
        image = patterns(1, 0)[0]
        for _ in range(5):
            classifier, answered = Classifier(bundles[target].path, threads=2), threading.Semaphore(0)
            expected = classifier.predict(image).probabilities

            def use(classifier=classifier, answered=answered, expected=expected) -> str:
                while True:
                    try:
                        np.testing.assert_array_equal(classifier.predict(image).probabilities, expected)
                    except UsageError as fault:
                        return str(fault)
                    finally:
                        answered.release()

            with ThreadPoolExecutor(4) as pool:
                users = [pool.submit(use) for _ in range(4)]
                for _ in range(20):
                    assert answered.acquire(timeout=30)
                classifier.close()
                assert {user.result(30) for user in users} == {"this classifier is closed; make a new one"}

    def test_a_stream_that_is_half_read_is_told(self):
        classifier = fake()
        stream = classifier.stream(iter(patterns(9, 0)))
        next(stream)
        classifier.close()
        with pytest.raises(UsageError, match="closed"):
            next(stream)


class TestStreamsThatAreLeft:
    @pytest.fixture(autouse=True)
    def no_thread_is_left(self):
        gc.collect()
        before = threading.active_count()
        yield
        for thread in threading.enumerate():
            if thread.name.startswith("libkd-decode"):
                thread.join(30)
        assert threading.active_count() == before

    def test_one_that_is_dropped(self):
        stream = fake().stream(iter(patterns(9, 0)))
        next(stream)
        del stream

    def test_one_that_is_dropped_while_its_images_are_read(self):
        """The garbage collector may drop it in a thread that holds Python's own locks, so nobody may wait for them."""
        gate, over = threading.Event(), threading.Event()

        class Waits(io.BytesIO):
            def read(self, size=-1):
                gate.wait(5)
                over.set()
                return super().read(size)

        stream = fake().stream(iter([patterns(1, 0)[0], Waits(b""), *patterns(9, 0)]), workers=1)
        next(stream)
        del stream
        assert not over.is_set()
        gate.set()

    def test_one_that_its_own_thread_collects(self):
        """A thread that decodes runs the garbage collector, and must not wait for itself to end."""
        gate, collected = threading.Event(), threading.Event()

        class Collects(io.BytesIO):
            def read(self, size=-1):
                assert gate.wait(30)
                gc.collect()
                collected.set()
                return super().read(size)

        gc.disable()
        try:
            stream = fake().stream(iter([patterns(1, 0)[0], Collects(b""), *patterns(9, 0)]), workers=1)
            next(stream)
            circle: list[object] = [stream]
            circle.append(circle)
            del stream, circle
            gate.set()
            assert collected.wait(30)
        finally:
            gc.enable()

    def test_one_whose_images_end_in_an_error(self):
        def camera():
            yield patterns(1, 0)[0]
            raise ImageError("unplugged")

        with pytest.raises(ImageError, match="unplugged"):
            list(fake().stream(camera()))


@pytest.mark.parametrize("opened_in", ["main", "other"])
@pytest.mark.parametrize("target", RUNNABLE)
def test_a_signal_arrives_after_another_thread_has_freed_the_engine(target, opened_in, bundles):
    """An engine that lends its thread a stack for signals must not free it under that thread."""
    program = """
import signal, sys, threading
import numpy as np
import sdk

def work():
    classifiers.append(sdk.Classifier(sys.argv[1]))
    classifiers[-1].predict(np.zeros((32, 32, 3), np.uint8))

def elsewhere(job):
    thread = threading.Thread(target=job)
    thread.start()
    thread.join()

classifiers, arrived = [], []
signal.signal(signal.SIGINT, lambda *_: arrived.append("SIGINT"))
here = lambda job: job()
first, second = (here, elsewhere) if sys.argv[2] == "main" else (elsewhere, here)
first(work)
second(classifiers.clear)
signal.raise_signal(signal.SIGINT)
print(*arrived)
"""
    assert run(program, bundles[target].path, opened_in) == "SIGINT\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "target", [pytest.param(target, marks=pytest.mark.long if target == "executorch" else ()) for target in RUNNABLE]
)
def test_a_soak_of_a_few_seconds(target, bundles):
    """Eight threads, images good and bad, streams that are left, forks, and other classifiers closed in use."""
    program = Path(__file__).parents[2] / "benchmarks" / "soak.py"
    command = [sys.executable, program, "--minutes", "0.1", "--bundles", bundles[target].path.parent, "--json"]
    process = subprocess.run([*command, "--targets", target], capture_output=True, timeout=300, check=False)
    (row,) = json.loads(process.stdout)
    assert [fault for fault in row["faults"] if "memory grew" not in fault] == [], process.stderr.decode()
    assert row["predictions"] > 20
    assert row["refused images"] > 2
    assert min(row["streams left"], row["closed in use"], row["forks"]) > 0

"""Stages that need nothing of each other, side by side on a CPU, each in a process with a part of the threads.

The steps of a small net keep few threads busy. Two trainings with one thread each take less time than the same two one
after the other with two threads (`benchmarks/beside.py`). The number of threads of a stage depends on the recipe, the
data and the threads of the run alone, so that a run that was interrupted ends with the same bits.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from sdk.children import can_start, python
from sdk.errors import LibkdError
from sdk.files import disk_failures

from . import parallel
from .counts import Counts
from .errors import ProcessLost
from .memory import keeping_freed_memory
from .models import come_along
from .progress import Progress, Silent
from .run import Job
from .stopping import finishing, stopped
from .threads import computing_with

LEAST_PIXELS, MOST_BYTES = 10**7, 2**30
"""The fewest pixels that a stage looks at if it is to have a process of its own, which takes seconds to start; and the
most bytes of images that are copied for the processes."""

LOOK_S = 1.0
"""How often a child is looked at that says nothing."""

LAST_STEP_S = 60.0
"""How long a child that was asked to end may take for its step and its checkpoint."""

Answer = TypeVar("Answer")


def at_once(job: Job, shown: Sequence[int], counts: Counts | None = None) -> int:
    """Return how many stages are done at the same time.

    It is 1 where each stage has all threads: on a GPU, in one of several processes that `torchrun` has started, with a
    single thread, with a net that only the calling program knows, with so much data that a copy of it would matter, and
    where all but one stage are short.

    Args:
        shown: the images that each stage is shown, counted again in each epoch.
        counts: the number of images in the run, of which the job's may be a sample; None means those of the job.
    """
    area, counts = math.prod(job.data.train.size), counts or Counts.of(job.data)
    in_memory = counts.students * (job.data.train.nbytes > 0) + counts.validation + counts.test
    shares = job.device.type == "cpu" and not parallel.is_shared() and os.name == "posix" and can_start()
    shares = shares and come_along(job.run.recipe)
    worthy = sum(count * area >= LEAST_PIXELS for count in shown)
    return max(1, min(worthy, torch.get_num_threads())) if shares and 3 * area * in_memory <= MOST_BYTES else 1


def fillers(job: Job, images: int, units: int, counts: Counts | None = None) -> int:
    """Return how many processes fill a store together that has so many units, which show so many images in all."""
    threads = torch.get_num_threads()
    each = images // (2 * threads)  # to answer for an image takes less than half of the time of learning from it
    return at_once(job, [each] * min(units, threads), counts)


def side_by_side(job: Job, works: Sequence[Callable[[Job], Answer]], slots: int) -> list[Answer]:
    """Do all of the work, `slots` stages at a time, and return the answers in the order of `works`.

    If one fails, or this process is interrupted, the others finish their step, keep it, and end.

    Args:
        works: functions at the top of a module, or partials of them, that keep what they make in the run's folder.

    Raises:
        ProcessLost: a process ended without an answer.
        FileError: the disk has no room for a copy of the data.
        Stopped: SIGTERM came.
        Exception: what the first work raised that failed.
    """
    if slots == 1 or not works:
        return [work(job) for work in works]
    threads = max(1, torch.get_num_threads() // slots)
    if len(works) == 1:
        with computing_with(threads):
            return [works[0](job)]
    answers: dict[int, Answer] = {}
    with finishing() as is_asked_to_stop, _handed(job) as (file, spans), _family() as children:
        waiting = deque(enumerate(works))
        while waiting or children:
            if is_asked_to_stop():
                raise stopped(" and ".join(child.doing for child in children))
            while waiting and len(children) < slots:
                number, work = waiting.popleft()
                children.append(_Child(number, _Task(work, spans, threads), file, job.progress.beside()))
            for child in _with_news(children, LOOK_S):
                if child.hear():
                    answers[child.number] = child.answer
                    children.remove(child)
    return [answers[number] for number in range(len(works))]


class _Task(NamedTuple):
    """The task of a child: the work, where the parts of the job lie in the file, and the number of threads."""

    work: Callable[[Job], Any]
    spans: Sequence[slice]
    threads: int


class _Child(Generic[Answer]):
    """A process that does one work, as the parent sees it.

    Attributes:
        number: the place of the work among all.
        doing: the stage that it has begun last.
        answer: what the work returned, once `hear` has returned True.
    """

    answer: Answer

    def __init__(self, number: int, task: _Task, file: int, progress: Progress) -> None:
        self.number, self._progress, self.doing = number, progress, "a stage"
        self.connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [*python(__name__), str(theirs.fileno()), str(file)],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), file),
                start_new_session=True,  # Ctrl-C in a terminal reaches the parent alone, which then ends its children
            )
        with suppress(OSError):  # a child that is gone is noticed when it is listened to
            self.connection.send(task)

    def has_news(self) -> bool:
        """Return whether it said something, or ended: a worker of its own may keep the connection open."""
        return self.process.poll() is not None or self.connection.poll()

    def has_ended(self) -> bool:
        """Pass over what it says next, and return whether it says nothing any more."""
        try:
            return not self.connection.poll() or self.connection.recv() is None
        except (EOFError, OSError):
            return True

    def hear(self) -> bool:
        """Handle what it says next, and return whether it is done.

        Raises:
            ProcessLost, Stopped: it ended without an answer.
            Exception: what its work raised.
        """
        try:
            if not self.connection.poll():
                raise EOFError
            what, *said = self.connection.recv()
        except (EOFError, OSError):
            raise self._lost(self.process.wait()) from None
        if what == "raised":
            raise said[0]
        if what == "done":
            self.answer = said[0]
            self.close()
            return True
        if what == "begin":
            self.doing = said[0]
        getattr(self._progress, what)(*said)
        return False

    def _lost(self, code: int) -> LibkdError:
        if code == -signal.SIGTERM:  # which a cluster sends to all processes
            return stopped(self.doing)
        return ProcessLost(
            f"{self.doing}: its process ended ({_end(code)}); what was kept stays: start the same command again, "
            "with --threads 1 if memory is short"
        )

    def close(self) -> None:
        """Wait for its end, and make sure of it."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(LAST_STEP_S)
        self.process.kill()
        self.process.wait()
        self.connection.close()


def _end(code: int) -> str:
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"exit code {code}"


def _with_news(children: Sequence[_Child[Answer]], seconds: float) -> list[_Child[Answer]]:
    wait([child.connection for child in children], seconds)
    return [child for child in children if child.has_news()]


@contextmanager
def _family() -> Iterator[list[_Child[Any]]]:
    """Give a list for children, none of which outlives the block. Those that still work finish their step."""
    children: list[_Child[Any]] = []
    try:
        yield children
    finally:
        try:
            for child in children:
                child.process.terminate()
            until = time.monotonic() + LAST_STEP_S
            working = list(children)
            while working and time.monotonic() < until:
                for child in _with_news(working, LOOK_S):
                    if child.has_ended():  # one that waits to be heard would not end
                        working.remove(child)
        finally:
            for child in children:
                child.process.kill()
                child.close()


@contextmanager
def _handed(job: Job) -> Iterator[tuple[int, list[slice]]]:
    """Give a file without a name that holds the job without its progress, and where its parts lie in it.

    The first part is a pickle; the others are arrays, which the children map into their memory.
    """
    buffers: list[pickle.PickleBuffer] = []
    pickled = io.BytesIO()
    _Pickler(pickled, protocol=5, buffer_callback=buffers.append).dump(replace(job, progress=Silent()))
    spans = list[slice]()
    with disk_failures(job.run.folder):
        file = tempfile.TemporaryFile(dir=job.run.folder)  # noqa: SIM115  (the errors of the block are not of this file)
    with file:
        with disk_failures(job.run.folder):
            for part in (pickled.getbuffer(), *(buffer.raw() for buffer in buffers)):
                start = file.seek(-(-file.tell() // mmap.PAGESIZE) * mmap.PAGESIZE)
                file.write(part)
                spans.append(slice(start, start + len(part)))
            file.flush()
        yield file.fileno(), spans


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: object) -> Any:
        return (torch.from_numpy, (value.numpy(),)) if type(value) is Tensor else NotImplemented


def _taken(file: int, spans: Sequence[slice], progress: Progress) -> Job:
    """Return the job that `_handed` wrote."""
    mapped = memoryview(mmap.mmap(file, 0, access=mmap.ACCESS_COPY))
    pickled, *buffers = (mapped[span] for span in spans)
    job: Job = pickle.loads(pickled, buffers=buffers)
    return replace(job, progress=progress)


class _Told:
    """The progress of a child, which tells its parent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def beside(self) -> _Told:
        return self

    def begin(self, stage: str, steps: int) -> None:
        self._connection.send(("begin", stage, steps))

    def step(self, steps: int = 1, note: str = "") -> None:
        self._connection.send(("step", steps, note))

    def end(self, summary: str = "") -> None:
        self._connection.send(("end", summary))

    def tell(self, text: str) -> None:
        self._connection.send(("tell", text))


def main() -> None:
    """Be the child: take a task, do its work, and tell what came of it."""
    connection, file = Connection(int(sys.argv[1])), int(sys.argv[2])
    try:
        task: _Task = connection.recv()
    except EOFError:
        return
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    try:
        with computing_with(task.threads), keeping_freed_memory():
            answer = task.work(_taken(file, task.spans, _Told(connection)))
        connection.send(("done", answer))
    except Exception as fault:
        if not isinstance(fault, LibkdError):
            fault.add_note(traceback.format_exc())
        connection.send(("raised", fault))


def _end_with_parent(connection: Connection) -> None:
    """End this process at once when the parent is gone, which says nothing after the task."""
    with suppress(OSError, EOFError):
        connection.recv()
    os._exit(1)

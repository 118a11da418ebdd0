"""The trial of a bundle in a child process, so that a file that crashes or hangs its engine harms only the child.

The child is a Python of its own. It gets the bytes that were checked, and not the folder. Both ends of the conversation
are in this file: a line of JSON and the files go in, and a line of JSON comes out.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import numpy as np

from runtimes.base import first_line
from runtimes.cores import usable_cores
from runtimes.engines import ENGINES, load_runtime

from ..children import python
from ..errors import BundleError, EngineError, EngineMissing, LibkdError, ProofError, UsageError
from .folder import Bundle
from .golden import TOLERANCE
from .manifest import MANIFEST, Manifest

TIMEOUT_S = 120.0
MAX_ANSWER_BYTES = 2**20
GRACE_S = 5
"""A child that nobody ends, because its parent was killed, ends itself this many seconds after its time."""

ERRORS = {kind.code: kind for kind in (BundleError, EngineError, EngineMissing, ProofError, UsageError)}
"""The errors that cross to the parent, as their code and message."""


class Limits(NamedTuple):
    """The limits of a trial.

    Attributes:
        timeout_s: seconds until the child is ended, with the time that it takes to start.
        memory_gb: gigabytes that the child may use; None is 4, eight times the size of the bundle's files, and 0.05 for
            each core. Only Linux holds a process to it.
    """

    timeout_s: float = TIMEOUT_S
    memory_gb: float | None = None

    def check(self) -> None:
        """Raise `UsageError` for a limit that is no positive number."""
        for name, value in self._asdict().items():
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name}={value}: a number above 0")


def try_in_child(bundle: Bundle, threads: int | None, limits: Limits) -> float | None:
    """Load a bundle in a child process, and return the largest difference from its golden answers.

    Without golden images, the child runs a black image, and None is returned.

    Raises:
        UsageError: a limit, or the number of threads, makes no sense.
        BundleError, EngineMissing, EngineError: as for loading the bundle here.
        ProofError: the golden answers are not reproduced; or the engine crashed, or reached a limit.
    """
    limits.check()
    size = sum(map(len, bundle.contents.values()))
    memory_gb = limits.memory_gb or 4 + 8 * size / 1e9 + usable_cores() / 20  # each thread of an engine has a stack
    task = {
        "path": str(bundle.path),
        "sizes": {name: len(content) for name, content in bundle.contents.items()},
        "threads": threads,
        "timeout_s": limits.timeout_s,
        "memory_gb": memory_gb,
    }
    started = time.monotonic()
    with _child(limits.timeout_s) as (process, to_child, from_child):
        with suppress(OSError), to_child:  # a child that is gone has answered, or its end says why
            to_child.write(json.dumps(task).encode() + b"\n")
            for content in bundle.contents.values():
                to_child.write(content)
        answer = from_child.read(MAX_ANSWER_BYTES)
        code = process.wait()
    if answer:
        return _understood(answer, bundle)
    if time.monotonic() - started >= limits.timeout_s:
        raise ProofError(
            f"{bundle.path}: did not answer within {limits.timeout_s:g} s; "
            "allow more time if this machine is slow, else don't use this bundle"
        )
    if code == 1:  # what Python ends with before `main` can answer
        raise EngineError(f"{bundle.path}: the trial can't start a Python process ({sys.executable})")
    raise ProofError(
        f"{bundle.path}: crashed {ENGINES[bundle.target].title} in a child process ({_end(code)}); "
        f"don't use this bundle, or allow more than {memory_gb:.1f} GB if it is large"
    )


@contextmanager
def _child(timeout_s: float) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]]:
    """Start a child, which is ended after `timeout_s` and when the block is left, even by an interrupt."""
    process = subprocess.Popen(
        python(__name__),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    timer = threading.Timer(timeout_s, _kill, [process])
    timer.daemon = True
    timer.start()
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process, process.stdin, process.stdout
    finally:
        timer.cancel()
        _kill(process)
        process.stdout.close()
        process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a child, and whatever it started."""
    if process.poll() is not None:
        return
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _end(code: int) -> str:
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"exit code {code}"


def _understood(answer: bytes, bundle: Bundle) -> float | None:
    """Return the difference that the child reports, or raise its error. A model may have taken the child over."""
    try:
        said = json.loads(answer)
        fault = ERRORS[said["code"]](str(said["message"])) if "code" in said else None
        difference = None if fault or said["difference"] is None else float(said["difference"])
    except (ValueError, LookupError, TypeError, RecursionError):
        difference, fault = math.nan, None
    if fault is not None:
        raise fault
    if difference is None or 0 <= difference <= TOLERANCE[bundle.precision]:
        return difference
    raise ProofError(f"{bundle.path}: the child process does not answer as it should; don't use this bundle")


def main() -> None:
    """Be the child: read a task and the files from standard input, and answer on standard output."""
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # an engine that prints does not disturb the answer
    task = json.loads(sys.stdin.buffer.readline())
    contents = {name: sys.stdin.buffer.read(size) for name, size in task["sizes"].items()}
    bundle = Bundle(Path(task["path"]), msgspec.json.decode(contents[MANIFEST], type=Manifest), contents)
    os.write(answers, json.dumps(_answer(bundle, task)).encode())
    os._exit(0)  # no engine's own cleaning up: it could still crash


def _answer(bundle: Bundle, task: dict[str, Any]) -> dict[str, Any]:
    try:
        load_runtime(bundle.target, bundle.manifest.backend)
        _limit(task["timeout_s"], task["memory_gb"])
        return {"difference": _difference(bundle, task["threads"])}
    except LibkdError as fault:
        return {"code": fault.code, "message": str(fault)}
    except MemoryError:
        return {"code": ProofError.code, "message": f"{bundle.path}: needs more than {task['memory_gb']:.1f} GB"}
    except Exception as fault:
        message = f"{bundle.path}: {type(fault).__name__}: {first_line(fault)}"
        return {"code": EngineError.code, "message": message}


def _difference(bundle: Bundle, threads: int | None) -> float | None:
    session = bundle.session(threads)
    try:
        difference = bundle.self_test(session)
        if difference is None:
            session.run(np.zeros((1, bundle.input.height, bundle.input.width, 3), np.uint8))
    finally:
        session.close()
    return difference


def _limit(timeout_s: float, memory_gb: float) -> None:
    """Limit this process, as far as its system can do that."""
    with suppress(AttributeError):
        signal.setitimer(signal.ITIMER_REAL, timeout_s + GRACE_S)
    with suppress(ImportError):
        import resource

        for kind, limit in ((resource.RLIMIT_DATA, int(memory_gb * 1e9)), (resource.RLIMIT_CORE, 0)):
            _, most = resource.getrlimit(kind)
            with suppress(OSError, ValueError):
                resource.setrlimit(kind, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))

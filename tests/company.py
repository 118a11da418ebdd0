"""Several processes that train together, for tests."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["trainer.parallel", "trainer.pipeline", "trainer.comparison"])

TIMEOUT = 120


class Ended(RuntimeError):
    """A process of the company ended with another exit code than 0."""


def together(count: int, work: Callable[..., Any], *arguments: object, folder: Path) -> list[Any]:
    """Return what `work(*arguments)` returns, or the error that it raised, in each of `count` processes.

    The place of each is in the environment, as `torchrun` sets it. An error is a pair of its type's name and its text.
    A process that ended early has the answer None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = [folder / f"answer-{count}-{rank}.json" for rank in range(count)]
    processes = [
        _CONTEXT.Process(target=_run, args=(rank, count, port, places[rank], work, arguments)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT)
        if process.is_alive():
            for other in processes:
                other.kill()
            raise Ended(f"a process still worked after {TIMEOUT} s")
    return [json.loads(place.read_text()) if place.exists() else None for place in places]


def _run(rank: int, count: int, port: int, answer: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch

    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    try:
        result: Any = work(*arguments)
    except Exception as fault:
        result = [type(fault).__name__, str(fault)]
    answer.write_text(json.dumps(result))

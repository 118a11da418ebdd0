"""The processes that train one net together, and the place of this one among them.

`torchrun` starts them and tells each its place in the environment. Without it, this process is the only one.

All of them do the same work on the same recipe and the same images. Each computes its lanes of every batch; the loss is
that of the whole batch, and every process takes the same step. Only the first one writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from sdk.errors import LibkdError, UsageError

from .errors import ProcessLost, RecipeError

WAIT, PATIENCE = timedelta(minutes=10), timedelta(hours=2)
"""How long a process waits for the others before it gives up: in a step that all make together, and where each has
work of its own, such as to read images or to fill its units of a store. The end of another one is noticed at once."""

Answer = TypeVar("Answer")

_is_alone = _is_told = False
_patient: dist.ProcessGroup | None = None
"""All processes, for exchanges in which one may wait long for another."""


def _place(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


def world_size() -> int:
    """Return how many processes work together here: 1 unless they have joined, and inside `from_first`."""
    return dist.get_world_size() if is_shared() and not _is_alone else 1


def is_shared() -> bool:
    """Return whether several processes do this work together, also inside `from_first`."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Return the number of this process among them, from 0 on."""
    return dist.get_rank() if world_size() > 1 else 0


def is_first() -> bool:
    """Return whether this process is the one that writes."""
    return rank() == 0


def on_this_machine() -> int:
    """Return how many of the processes share the cores of this machine."""
    return _place("LOCAL_WORLD_SIZE", 1) if world_size() > 1 else 1


def local_rank() -> int:
    """Return the number of this process on its machine, from 0 on. The process takes the GPU of that number."""
    return _place("LOCAL_RANK", 0)


@contextmanager
def joined() -> Iterator[None]:
    """Let the processes that `torchrun` has started work together inside the block. They may have joined already.

    Raises:
        ProcessLost: the others did not come, or one of them ended or hung.
        UsageError: a part of their places is missing.
    """
    if _place("WORLD_SIZE", 1) == 1 or dist.is_initialized():
        yield
        return
    global _patient
    _check_places()
    _take_gpu()
    minutes = f"{WAIT.total_seconds() / 60:g} minutes"
    with _others_may_be_lost(
        f"the processes of this run did not all come to {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}, where "
        f"each waits {minutes} for the others; start all of them, with this address"
    ):
        told = _met()
        _patient = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PATIENCE))
    try:
        with _others_may_be_lost(
            "another process of this run ended or hangs; what was kept stays: look for its error, and start the same "
            "command again"
        ):
            meet()  # or one that fails at once would seem never to have come, to those that still connect to it
            yield
            meet()  # or a process that hangs in its last work would be noticed by nobody
    except (Exception, KeyboardInterrupt) as fault:
        _tell_once(told, fault)
        raise
    finally:
        _patient = None
        dist.destroy_process_group()


def _check_places() -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise UsageError(
                f"WORLD_SIZE is set, but {name} is not; start the command by torchrun, or unset WORLD_SIZE"
            )


def _take_gpu() -> None:
    if local_rank() < torch.cuda.device_count():  # with --device cpu there may be more processes than GPUs
        torch.cuda.set_device(local_rank())


def _met() -> PrefixStore:
    """Meet the other processes. Return the place where one of them tells the others that it tells an error."""
    store, place, count = next(iter(rendezvous("env://", timeout=WAIT)))
    backends = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backends, store=store, rank=place, world_size=count, timeout=WAIT)
    return PrefixStore("told", store)


@contextmanager
def _others_may_be_lost(message: str) -> Iterator[None]:
    try:
        yield
    except (dist.DistError, RuntimeError) as fault:
        words = ("gloo", "nccl", "rendezvous", "connection", "timed out", "timeout", "socket")
        if not (isinstance(fault, dist.DistError) or any(word in str(fault).lower() for word in words)):
            raise
        raise ProcessLost(message) from fault


def _tell_once(told: PrefixStore, fault: BaseException) -> None:
    """Let one process tell why the work ends. Who lost another one, or was interrupted, adds nothing to its error."""
    global _is_told
    is_own = not isinstance(fault, (ProcessLost, KeyboardInterrupt))
    with suppress(dist.DistError, RuntimeError):  # the machine that keeps what was told may be lost
        _is_told = not is_own and told.check(["error"])
        if is_own:
            told.set("error", "")  # before the others notice the end of this process
        _is_told |= told.add(f"{type(fault).__name__}: {fault}" if is_own else "lost", 1) > 1


def is_told() -> bool:
    """Return whether another process tells why the work here has ended, so that nobody repeats it."""
    return _is_told


def from_first(work: Callable[[], Answer]) -> Answer:
    """Return what `work` returns in the first process, which alone does it. The others wait.

    Raises:
        LibkdError: `work` raised it; then it is raised in every process.
    """
    global _is_alone
    if world_size() == 1:
        return work()
    outcome: list[object] = [None]
    if is_first():
        _is_alone = True
        try:
            outcome = [_outcome(work)]
        finally:
            _is_alone = False
    dist.broadcast_object_list(outcome, src=0, group=_patient)
    return cast(Answer, _result(outcome[0]))


def meet() -> None:
    """Wait until all processes have come here."""
    if world_size() > 1:
        dist.barrier(group=_patient)


def as_first(value: Answer) -> Answer:
    """Return the value that the first process has."""
    return from_first(lambda: value)


def agreed(work: Callable[[], Answer]) -> Answer:
    """Return what `work` returns. Each process does it, and if it fails in one of them, it fails in all.

    Raises:
        LibkdError: `work` raised it, here or in another process.
    """
    if world_size() == 1:
        return work()
    own = _outcome(work)
    faults: list[LibkdError | None] = [None] * world_size()
    dist.all_gather_object(faults, own if isinstance(own, LibkdError) else None, group=_patient)
    for fault in faults:
        if fault is not None:
            raise fault
    return cast(Answer, own)


def _outcome(work: Callable[[], object]) -> object:
    try:
        return work()
    except LibkdError as fault:
        return fault.with_traceback(None)


def _result(outcome: object) -> object:
    if isinstance(outcome, LibkdError):
        raise outcome
    return outcome


def check_same(facts: Mapping[str, str]) -> None:
    """Refuse processes that would not do the same work.

    Raises:
        RecipeError: one of the facts differs between them; the message names it.
    """
    if world_size() == 1:
        return
    known: list[Mapping[str, str]] = [{}] * world_size()
    dist.all_gather_object(known, dict(facts), group=_patient)
    for name in facts:
        values = {each.get(name) for each in known}
        if len(values) > 1:
            raise RecipeError(
                f"the {world_size()} processes of this run have different {name}; give all the same command and files"
            )


@contextmanager
def by_first(context: AbstractContextManager[Any]) -> Iterator[None]:
    """Enter a context in the first process only.

    Raises:
        LibkdError: it could not be entered; then it is raised in every process.
    """
    with ExitStack() as stack:
        from_first(lambda: stack.enter_context(context) and None)
        yield


def share(count: int) -> slice:
    """Return the part of `count` rows that this process computes; see `joined_rows`. Few rows are not shared."""
    if count < world_size():
        return slice(count)
    return slice(*(count * place // world_size() for place in (rank(), rank() + 1)))


def joined_rows(own: Tensor, count: int) -> Tensor:
    """Return all `count` rows from the parts that the processes computed; see `share`. Every process gets all."""
    if len(own) == count:
        return own
    bounds = [count * place // world_size() for place in range(world_size() + 1)]
    padded = own.new_zeros(-(-count // world_size()), *own.shape[1:])
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(parts, padded)
    return torch.cat([part[: end - start] for part, start, end in zip(parts, bounds, bounds[1:], strict=False)])


def total(count: int) -> int:
    """Return the sum of a number over the processes."""
    if world_size() == 1:
        return count
    value = torch.tensor([count])
    dist.all_reduce(value)
    return int(value.item())

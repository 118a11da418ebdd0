"""The number of cores that this process may use, and the number of threads that is the fastest on them at a moment.

On a host with 64 cores, `docker run --cpus=2` leaves all 64 in the affinity. Only the quota of a control group says
that two of them may be busy; 64 threads then wait for each other most of the time.

Beside another busy process, fewer threads may be several times as fast: the threads of one operation wait for each
other, so all of them wait for the one that shares its core, again in each of thousands of operations.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> int:
    """Return the number of cores that this process may keep busy, at least 1; a quota of 1.5 cores counts as 1.

    Args:
        root: the folder that holds `proc` and `sys`.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(int, _quotas(root))]))


SPIN_COUNT = "2000"
"""Rounds for which a thread of GNU's OpenMP spins: enough between operators on idle cores, short beside other work."""


def limit_spinning() -> None:
    """Let the threads of torch spin only briefly where they wait, unless the user has chosen how they wait.

    By default, they spin for milliseconds. Beside other busy processes, each of them then takes the core that the
    thread it waits for needs. OpenMP reads this setting when it is loaded: after torch was imported, it has no effect.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


WORTH = 1.05
"""More threads have to be faster by this factor than fewer, which leave cores to others."""

ROUNDS = 3
"""The least number of rounds in which numbers of threads are tried."""


class Threads(NamedTuple):
    """A number of threads, and why it was chosen.

    Attributes:
        number: the number.
        slower: how many times as long the largest number takes that was tried; None if nothing was measured.
        busy: whether the largest number takes longer than a single thread, as it does beside another busy process.
    """

    number: int
    slower: float | None = None
    busy: bool = False

    def __str__(self) -> str:
        text = f"{self.number} thread{'s' * (self.number > 1)}"
        if self.slower is None or self.slower <= 1:
            return text
        why = "the machine is busy, and more threads" if self.busy else "more"
        return f"{text}: {why} take {self.slower:.1f} times as long"


def fastest(most: int, seconds: Callable[[int], float], least_s: float = 0.0) -> Threads:
    """Return the fastest of `most` threads, a half of them, a quarter, and so on to one.

    The numbers take turns, because a machine may be busy in one moment only, and the median of each one's times counts.

    Args:
        seconds: does some work with a number of threads, and returns how long that took. Its first call warms up.
        least_s: rounds are added until they have taken that many seconds.
    """
    from statistics import median  # only here, because loading it takes as long as a module of ours

    counts = [most >> power for power in range(most.bit_length())]
    if len(counts) == 1:
        return Threads(most)
    times: dict[int, list[float]] = {count: [] for count in counts}
    started, rounds = time.perf_counter(), 0
    while rounds <= ROUNDS or time.perf_counter() - started < least_s:
        for count, taken in times.items():
            taken.append(seconds(count))
        rounds += 1
    medians = {count: median(taken[1:]) for count, taken in times.items()}
    chosen = min(count for count, middle in medians.items() if middle <= WORTH * min(medians.values()))
    return Threads(chosen, medians[most] / medians[chosen], medians[most] > WORTH * medians[1])


_GROUP = re.compile(r"\d+:([^:]*):(/.*)")
"""A line of `/proc/self/cgroup`: the controllers, none for version 2, and the group of this process."""

_MOUNT = re.compile(r"\S+ \S+ \S+ (/\S*) (/\S*) .*- (cgroup2?) \S+ (\S+)")
"""A line of `/proc/self/mountinfo`: the group that is the root of a mount, its folder, its version, and its options."""


def _quotas(root: Path) -> Iterator[float]:
    """Give the quota of each group that this process is in, and of the groups above it, in cores.

    In a container without a namespace of its own, the root of the mount is a group such as `/docker/1f3a`.
    """
    groups = _groups(root)
    for kind, inside, mount in _mounts(root):
        folder, group = mount, groups.get(kind, inside)
        if group.is_relative_to(inside) and ".." not in group.parts:  # else the group is out of sight
            folder /= group.relative_to(inside)
        for place in (folder, *folder.parents):
            with suppress(OSError, ValueError):
                yield from _quota(root / place.relative_to("/"), kind)
            if place == mount:
                break


def _groups(root: Path) -> dict[str, PurePosixPath]:
    """Return the group of this process in each version of control groups that may hold a quota."""
    found = {}
    for line in _lines(root / "proc/self/cgroup"):
        if (match := _GROUP.fullmatch(line)) and (not match[1] or "cpu" in match[1].split(",")):
            found["cgroup" if match[1] else "cgroup2"] = PurePosixPath(match[2])
    return found


def _mounts(root: Path) -> Iterator[tuple[str, PurePosixPath, PurePosixPath]]:
    """Give the version, the root group and the folder of each mount that may hold quotas."""
    for line in _lines(root / "proc/self/mountinfo"):
        if (match := _MOUNT.fullmatch(line)) and (match[3] == "cgroup2" or "cpu" in match[4].split(",")):
            yield match[3], _unescaped(match[1]), _unescaped(match[2])


def _unescaped(path: str) -> PurePosixPath:
    return PurePosixPath(re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), path))


def _quota(group: Path, kind: str) -> Iterator[float]:
    """Give the quota of a group in cores, unless it has none: `max 100000` or `-1`.

    Raises:
        OSError, ValueError: the group has no such files, or they hold something else.
    """
    if kind == "cgroup2":
        quota, period = (group / "cpu.max").read_text("ascii").split()
    else:
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text("ascii").strip() for name in ("quota", "period"))
    if quota not in ("max", "-1"):
        yield int(quota) / max(1, int(period))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:  # no Linux, or no /proc
        return []

"""Disturb `distill` in every stage, as one process or as several under torchrun; continue; and compare all tensors.

    python benchmarks/kills_together.py [--rounds 3] [--seed 0] [--processes 2] [--ways term,kill] [--disk FOLDER]

A round is one run. In each of its stages, at a random moment, something happens to it, and the same command is started
again, until it has passed all stages. The ways:

    term    SIGTERM, to torchrun if there is one, as a machine gets it that is taken back
    kill    SIGKILL, to torchrun and all processes
    one     SIGKILL, to one of several processes
    hang    SIGSTOP, to one of several processes
    full    the disk is full; with --disk, a folder on a small file system of its own, such as a tmpfs

Expected:

    lost        0: in the end, all tensors are those of a run that nobody disturbed, bit for bit
    rows        0: metrics.jsonl has each epoch once, with the loss of the undisturbed run
    again       0: no net and no stored unit that was finished is computed again
    left over   0: no half-written file stays in the run
    unclear     0: there is one line of an error, and it and the exit code are those of docs/errors.md
    late        0: everything has ended in time
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, NamedTuple

from kills import equal, finished, losses_in, tensors_in

from clothes import TINY_RECIPE, unpack_clothes
from libkd_sdk.main import run as libkd
from libkd_sdk.output import Bars
from trainer import loop, parallel

STAGES = (
    "reading images",
    "training teachers/conv",
    "training teachers/involution",
    "storing logits",
    "training student",
    "the end",
)
RECIPE = TINY_RECIPE.replace("epochs = 10", "epochs = 6").replace("[student]", '[student]\nstem = "patch"')
MARK, WORKS = "@ ", "works as "

WAIT_S = 30
"""How long a process waits here for the others."""

GRACE_S = 30
"""How long torchrun waits for a process that it has told to end, before it kills it."""


class Way(NamedTuple):
    """A way to disturb a run: what it ends with, and how soon.

    Attributes:
        errors: the codes of the error that is told. After `kill`, there need not be one.
        alone, together: the exit code of a single process, and of torchrun.
        seconds: how long it may take until everything has ended.
    """

    errors: tuple[str, ...]
    alone: int
    together: int
    seconds: float


WAYS = {
    "term": Way(("stopped",), 75, 1, GRACE_S),
    "kill": Way(("process-lost",), -signal.SIGKILL, -signal.SIGKILL, 5),
    "one": Way(("process-lost", "stopped"), 0, 1, GRACE_S),  # stopped by torchrun, which may be the first to notice
    "hang": Way(("process-lost",), 0, 1, WAIT_S + GRACE_S + 15),
    "full": Way(("file-unwritable",), 2, 1, 60),
}


class Attempt(NamedTuple):
    """A start of the command: its exit code, the seconds until its stages, and those since it was disturbed.

    `stage` is the one in which that happened; it is empty if everything had ended before.
    """

    code: int
    lines: list[str]
    begun: dict[str, float]
    seconds: float
    stage: str

    @property
    def errors(self) -> list[str]:
        """The errors that the command told."""
        return [line for line in self.lines if line.startswith("libkd-sdk: ")]


class Started:
    """A command that runs: the processes that do its work, and the stages that it has begun."""

    def __init__(self, command: Sequence[str]) -> None:
        self.processes: list[int] = []
        self.begun: dict[str, float] = {}
        self.lines: list[str] = []
        self._changed, self._started, self._is_read = threading.Condition(), time.perf_counter(), False
        self.popen = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert self.popen.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(self.popen.stderr,))
        self._reader.start()

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            with self._changed:
                if not line.startswith(MARK):
                    self.lines.append(line.rstrip())
                elif (mark := line[len(MARK) : -1]).startswith(WORKS):
                    self.processes.append(int(mark[len(WORKS) :]))
                else:
                    self.begun.setdefault(mark, time.perf_counter() - self._started)
                self._changed.notify_all()
        with self._changed:
            self._is_read = True
            self._changed.notify_all()

    def wait_for(self, stage: str) -> None:
        """Wait until a stage has begun, or until everything has ended."""
        with self._changed:
            self._changed.wait_for(lambda: stage in self.begun or self._is_read)

    def stage(self) -> str:
        """Return the stage that has begun last, or nothing if everything has ended."""
        with self._changed:
            return "" if self._is_read else list(self.begun)[-1]

    def kill(self) -> None:
        """Kill the command and the processes that it has started."""
        for process in (self.popen.pid, *self.processes):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def ended(self, seconds: float) -> int:
        """Return the exit code when everything has ended; after so many seconds, it is killed."""
        self._reader.join(seconds)
        if self._reader.is_alive():
            self.kill()
            self._reader.join()
        return self.popen.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--ways", help="which of them, with commas; those that are possible if left out")
    parser.add_argument("--disk", type=Path, help="a folder on a small file system of its own, which is filled")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    possible = ["term", "kill", *["one", "hang"] * (arguments.processes > 1), *["full"] * bool(arguments.disk)]
    ways = arguments.ways.split(",") if arguments.ways else possible
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory(dir=arguments.disk) as disk:
        recipe, run = Path(name) / "recipe.toml", Path(disk) / "run"
        recipe.write_text(RECIPE, encoding="utf-8")
        data = unpack_clothes(Path(name) / "clothes")
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(arguments.processes)]
        command = [sys.executable, *(launcher if arguments.processes > 1 else []), __file__, "distill", "--data"]
        command += [str(data), "--recipe", str(recipe), "--device", "cpu", "--threads", "1", "--out", str(run)]
        figures = Rounds(command, run, ways, arguments.processes, random.Random(arguments.seed)).figures(
            arguments.rounds
        )
    print(json.dumps(figures) if arguments.json else "\n".join(f"{key:<24} {it}" for key, it in figures.items()))
    return int(any(figures[key] for key in ("lost", "rows", "again", "left over", "unclear", "late")))


class Rounds:
    """Runs in the folder `run` that are disturbed in each stage, and what is found."""

    def __init__(self, command: Sequence[str], run: Path, ways: Sequence[str], processes: int, chance: random.Random):
        self.command, self.run, self.ways, self.processes, self.chance = command, run, ways, processes, chance
        self.found: Counter[str] = Counter()

    def figures(self, rounds: int) -> dict[str, int]:
        """Return the figures of so many rounds."""
        whole = attempt(self.command)
        assert whole.code == 0, whole.errors
        tensors, losses = tensors_in(self.run), losses_in(self.run)
        starts = [whole.begun[stage] for stage in STAGES]
        lengths = [end - start for start, end in zip(starts, [*starts[1:], whole.seconds], strict=True)]
        for _ in range(rounds):
            shutil.rmtree(self.run)
            for stage, length in zip(STAGES, lengths, strict=True):
                ways = [way for way in self.ways if (way, stage) != ("hang", "the end")]  # others are done then
                after = length / 2 * self.chance.random()  # a stage that was continued is shorter
                if not ways or self.disturbed(stage, after, self.chance.choice(ways)).code == 0:
                    break
            last = attempt(self.command)
            left = [str(path) for path in self.run.rglob(".*")]
            self.count("lost", last.code != 0 or not equal(tensors_in(self.run), tensors), last.errors)
            self.count("rows", losses_in(self.run) != losses, losses_in(self.run))
            self.count("left over", bool(left), left)
        names = ("lost", "rows", "again", "left over", "unclear", "late")
        return {"rounds": rounds, **dict.fromkeys(names, 0), **self.found}

    def disturbed(self, stage: str, after: float, name: str) -> Attempt:
        """Start the command, let something happen to it, and look at how it ended."""
        way, kept = WAYS[name], finished(self.run)
        done = attempt(self.command, Disturbance(name, stage, after, self.chance.random(), self.run.parent))
        if not done.stage:
            self.count("unclear", done.code != 0, "\n".join([f"ended before {stage}", *done.lines]))
            return done
        what = f"{name}, {after:.2f} s after the beginning of {stage}, in {done.stage}"
        code = way.alone if self.processes == 1 else way.together
        print(
            f"{what}: {done.code} after {done.seconds:.1f} s", *done.errors, sep="\n    ", file=sys.stderr, flush=True
        )
        self.found[f"{name} in {done.stage}"] += 1
        if done.stage != STAGES[-1] or done.errors:  # in the end, nothing may be left to say
            told = [error.rpartition("[")[2].rstrip("]") for error in done.errors]
            clear = len(told) <= 1 and bool(told or name == "kill") and set(told) <= set(way.errors)
            self.count("unclear", not clear or done.code != code, "\n".join([what, str(done.code), *done.lines]))
        self.count("late", done.seconds > way.seconds, f"{what}: {done.seconds:.0f} s")
        again = [path for path, time_ns in kept.items() if finished(self.run).get(path) != time_ns]
        self.count("again", bool(again), f"{what}: {again}")
        return done

    def count(self, figure: str, wrong: bool, about: object) -> None:
        """Count what is wrong, and tell about it."""
        self.found[figure] += wrong
        if wrong:
            print(f"{figure}: {about}", file=sys.stderr, flush=True)


class Disturbance(NamedTuple):
    """Something that happens `after` seconds of a stage, to the process that `which`, from 0 to 1, points at."""

    way: str
    stage: str
    after: float
    which: float
    disk: Path

    def happen(self, to: Started) -> Path | None:
        """Let it happen. Return a file that fills the disk, if there is one."""
        one = to.processes[int(self.which * len(to.processes))]
        with suppress(ProcessLookupError):  # it has ended just before
            if self.way == "term":
                to.popen.terminate()
            elif self.way == "kill":
                to.kill()
            elif self.way in ("one", "hang"):
                os.kill(one, signal.SIGKILL if self.way == "one" else signal.SIGSTOP)
        return fill(self.disk / "rest") if self.way == "full" else None


def attempt(command: Sequence[str], disturbance: Disturbance | None = None) -> Attempt:
    """Start a command, disturb it, and wait until everything has ended."""
    started, rest, since, stage = Started(command), None, time.perf_counter(), ""
    if disturbance:
        started.wait_for(disturbance.stage)
        time.sleep(disturbance.after)
        since, stage = time.perf_counter(), started.stage()
        rest = disturbance.happen(started) if stage else None
    code = started.ended(300)
    if rest:
        rest.unlink()
    return Attempt(code, started.lines, started.begun, time.perf_counter() - since, stage)


def fill(path: Path) -> Path:
    """Let a file take all the space that is left."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        for size in (2**20, 2**12):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
    return path


def work(arguments: list[str]) -> int:
    """Run the command line as one of the processes, which mark the stages that begin on stderr."""
    mark(f"{WORKS}{os.getpid()}")
    loop.LOST_AT_MOST = 0.0  # a checkpoint after every epoch, although the epochs are short
    parallel.WAIT = parallel.PATIENCE = timedelta(seconds=WAIT_S)
    begin, end = Bars.begin, Bars.end
    patched: Any = Bars

    def begins(bars: Bars, stage: str, steps: int) -> None:
        if stage in STAGES:
            mark(stage)
        begin(bars, stage, steps)

    def ends(bars: Bars, summary: str = "") -> None:
        end(bars, summary)
        if STAGES[-2] in marked:
            mark(STAGES[-1])

    patched.begin, patched.end = begins, ends
    return libkd(arguments)


marked: set[str] = set()


def mark(text: str) -> None:
    """Write a mark, if it is a new one."""
    if text not in marked:
        marked.add(text)
        os.write(2, f"{MARK}{text}\n".encode())


if __name__ == "__main__":
    sys.exit(work(sys.argv[1:]) if sys.argv[1:2] == ["distill"] else main())

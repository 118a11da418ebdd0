"""Kill the commands that train, or fill their disk, at every write; continue; and compare all tensors, bit for bit.

    python benchmarks/kills.py [--kills 200] [--terms 100] [--full 100] [--seed 0] [--json]

Each trial starts a command in a process of its own, and ends it: by SIGKILL before or after one of its renames, its
forced writes or its new files, by SIGTERM before one of these, by either at a random moment, or by a disk that is full
from one of these on. Then the same command runs again to its end. Expected:

    lost        0: after that, every tensor is that of a run that nobody disturbed
    rows        0: metrics.jsonl has each epoch once, with the loss of the run that nobody disturbed
    again       0: no net and no stored unit that was finished before the kill is computed again
    left over   0: no half-written file stays in the run
    unclear     0: SIGTERM is one line, with the code stopped; a full disk is one that names the file, with the code
                file-unwritable
"""

from __future__ import annotations

import argparse
import errno
import io
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["OMP_NUM_THREADS"] = "1"

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from clothes import TINY_RECIPE, unpack_clothes  # noqa: E402
from libkd_sdk.main import run as libkd  # noqa: E402
from trainer import loop  # noqa: E402
from trainer.metrics import epoch_rows  # noqa: E402

RECIPE = TINY_RECIPE.replace("epochs = 10", "epochs = 2").replace("epochs = 4", "epochs = 2")
FIGURES = ("lost", "rows", "again", "left over", "unclear")
NOT_FULL = "the disk was not full in time"


class Fault(NamedTuple):
    """The end of a process: `how` it ends, at the write of number `at`, or after `at` seconds if `how` is "later"."""

    how: str
    at: float
    signal: signal.Signals = signal.SIGKILL


class Job(NamedTuple):
    """A command that trains: its arguments, and the folder that it starts from, which is copied, if there is one."""

    name: str
    arguments: list[str]
    before: Path | None = None


Losses = dict[str, list[tuple[int, float]]]
"""The number and the loss of each epoch of each stage, in the order of the rows."""


class Undisturbed(NamedTuple):
    """A run that nobody disturbed: its tensors by the name of their file, the number of its writes, its seconds."""

    tensors: dict[str, dict[str, torch.Tensor]]
    losses: Losses
    writes: int
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--terms", type=int, default=100, help="how often SIGTERM comes")
    parser.add_argument("--full", type=int, default=100, help="how often the disk is full")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", default="distill,precompute,compare,teach", help="which of them, with commas")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loop.LOST_AT_MOST = 0.0  # a checkpoint after every epoch, although the epochs are short
    with tempfile.TemporaryDirectory() as name:
        jobs = [job for job in make_jobs(Path(name)) if job.name in arguments.commands.split(",")]
        figures = measure(jobs, Path(name), arguments, random.Random(arguments.seed))
    if arguments.json:
        print(json.dumps(figures))
    else:
        for key, figure in figures.items():
            print(f"{key:<24} {figure}")
    return int(any(figures[key] for key in FIGURES))


def measure(jobs: Sequence[Job], place: Path, counts: argparse.Namespace, chance: random.Random) -> dict[str, int]:
    """Disturb each command in turn, at moments that are spread evenly over its writes, and return what was found."""
    whole = {job.name: undisturbed(job, place) for job in jobs}
    for job in jobs:
        print(f"{job.name}: {whole[job.name].writes} writes, {whole[job.name].seconds:.1f} s", file=sys.stderr)
    found: Counter[str] = Counter(dict.fromkeys(("kills", "terms", "full disks", *FIGURES), 0))
    for hows, count, number_of_signal in (
        (("before", "after", "before", "after", "later"), counts.kills, signal.SIGKILL),
        (("before", "later"), counts.terms, signal.SIGTERM),
        (("full",), counts.full, signal.SIGKILL),
    ):
        shares = [count // len(jobs) + (number < count % len(jobs)) for number in range(len(jobs))]
        for job, share in zip(jobs, shares, strict=True):
            for number, how in zip(range(share), itertools.cycle(hows), strict=False):
                moment = (number + chance.random()) / share
                at = moment * whole[job.name].seconds if how == "later" else 1 + int(moment * whole[job.name].writes)
                found.update(trial(job, Fault(how, at, number_of_signal), whole[job.name], place))
    return dict(found)


def make_jobs(place: Path) -> list[Job]:
    """Return the commands, all on the same few images."""
    data, recipe = unpack_clothes(place / "clothes", train=12, test=4), place / "recipe.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    new = ["--data", str(data), "--recipe", str(recipe), "--device", "cpu"]
    taught = place / "taught"
    for name in ("conv", "involution"):
        code, error = in_child(["teach", name, *new, "--out", str(taught)], taught, None)
        assert code == 0, error
    return [
        Job("distill", ["distill", *new]),
        Job("precompute", ["precompute"], taught),
        Job("compare", ["compare", *new, "--seeds", "1"]),
        Job("teach", ["teach", "conv", *new]),
    ]


def undisturbed(job: Job, place: Path) -> Undisturbed:
    """Run a command without any fault."""
    folder, started = fresh(job, place), time.perf_counter()
    code, error = in_child([*job.arguments, "--out", str(folder)], folder, Fault("count", 0))
    assert code == 0, error
    seconds = time.perf_counter() - started
    return Undisturbed(tensors_in(folder), losses_in(folder), int(error.splitlines()[-1]), seconds)


def trial(job: Job, fault: Fault, whole: Undisturbed, place: Path) -> Counter[str]:
    """Disturb a command, run it again to its end, and return what was found."""
    folder, found = fresh(job, place), Counter[str]()
    arguments = [*job.arguments, "--out", str(folder)]
    code, error = in_child(arguments, folder, fault)
    is_one_line = "Traceback" not in error and error.count("libkd-sdk: ") == 1
    if fault.how == "full" and not error.endswith(NOT_FULL):
        found["full disks"] += 1
        line = error.splitlines()[-1]
        clear = code == 2 and is_one_line and line.endswith("[file-unwritable]") and str(folder) in line
        found["unclear"] += tell(not clear, job, fault, error)
    elif fault.signal == signal.SIGTERM and code != 0:
        found["terms"] += 1
        found["unclear"] += tell(code != 75 or not is_one_line or not error.endswith("[stopped]"), job, fault, error)
    else:
        found["kills"] += code == -signal.SIGKILL
    kept = finished(folder)
    code, error = in_child(arguments, folder, None)
    same = code == 0 and equal(tensors_in(folder), whole.tensors)
    found["lost"] += tell(not same, job, fault, error)
    found["rows"] += tell(losses_in(folder) != whole.losses, job, fault, str(losses_in(folder)))
    found["again"] += tell(any(finished(folder).get(name) != it for name, it in kept.items()), job, fault, "again")
    left = [] if job.name == "precompute" else list(folder.rglob(".*"))  # others may be filling the same store
    found["left over"] += tell(bool(left), job, fault, str(left))
    shutil.rmtree(folder)
    return found


def tell(wrong: bool, job: Job, fault: Fault, text: str) -> bool:
    """Print what went wrong, and return whether anything did."""
    if wrong:
        print(f"{job.name}, {fault}: {text}", file=sys.stderr)
    return wrong


def fresh(job: Job, place: Path) -> Path:
    """Return the folder in which the command is disturbed: the same path in every trial."""
    folder = place / "run"
    shutil.rmtree(folder, ignore_errors=True)
    if job.before:
        shutil.copytree(job.before, folder)
    return folder


def tensors_in(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Return all tensors in a folder."""
    paths = sorted(folder.rglob("*.safetensors"))
    return {str(path.relative_to(folder)): {k: v.clone() for k, v in load_file(path).items()} for path in paths}


def losses_in(folder: Path) -> Losses:
    """Return the losses in a run, or in the runs in a folder."""
    losses: Losses = {}
    for path in sorted(folder.rglob("metrics.jsonl")):
        for row in epoch_rows(path.parent):
            losses.setdefault(str(path.parent.relative_to(folder) / row.stage), []).append((row.epoch, row.loss))
    return losses


def equal(one: dict[str, dict[str, torch.Tensor]], other: dict[str, dict[str, torch.Tensor]]) -> bool:
    """Return whether two folders hold the same tensors, bit for bit."""
    return one.keys() == other.keys() and all(
        one[name].keys() == other[name].keys()
        and all(torch.equal(one[name][key], other[name][key]) for key in one[name])
        for name in one
    )


def finished(folder: Path) -> dict[str, int]:
    """Return what must not be computed again: the finished nets and the stored units, with the times of their files."""
    nets = [path.with_name("model.safetensors") for path in folder.rglob("config.json")]
    return {str(path): path.stat().st_mtime_ns for path in (*nets, *folder.rglob("view-*.safetensors"))}


def in_child(arguments: list[str], folder: Path, fault: Fault | None) -> tuple[int, str]:
    """Run the command line in a forked process with a fault, and return its exit code and its stderr."""
    with tempfile.TemporaryFile() as output:
        if not (child := os.fork()):
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            writes = Writes(folder, fault) if fault else None
            code = libkd(arguments)
            if writes and writes.fault.how == "count":
                print(writes.seen, file=sys.stderr)
            if writes and writes.fault.how == "full" and not writes.full:
                print(NOT_FULL, file=sys.stderr)
            sys.stderr.flush()
            os._exit(code)
        if fault and fault.how == "later":
            time.sleep(fault.at)
            os.kill(child, fault.signal)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        return code, output.read().decode(errors="replace").strip()


class Writes:
    """Count the writes of this process in a folder, and let a fault happen at one of them."""

    def __init__(self, folder: Path, fault: Fault) -> None:
        self.folder, self.fault, self.seen, self.full = str(folder), fault, 0, False
        for name in ("replace", "mkdir", "unlink", "rmdir"):
            setattr(os, name, self._watched(getattr(os, name), lambda path, *_, **__: os.fspath(path)))
        os.fsync = self._watched(os.fsync, lambda file: Path(f"/proc/self/fd/{file}").readlink())
        os.open = self._watched(os.open, lambda path, flags, *_, **__: os.fspath(path) if flags & os.O_CREAT else "")
        io.open = self._watched(io.open, lambda path, mode="r", *_, **__: path if set(mode) & set("wax+") else "")
        __builtins__.open = io.open

    def _watched(self, function: Callable[..., Any], path_of: Callable[..., Any]) -> Callable[..., Any]:
        makes = function.__name__ not in ("unlink", "rmdir")

        def watched(*arguments: Any, **options: Any) -> Any:
            path = path_of(*arguments, **options)
            if not str(path).startswith(self.folder):
                return function(*arguments, **options)
            self.seen += 1
            if self.fault.how == "full" and self.seen >= self.fault.at and makes:
                self.full = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            self._end("before")
            found = function(*arguments, **options)
            self._end("after")
            return found

        return watched

    def _end(self, how: str) -> None:
        if self.fault[:2] == (how, self.seen):
            os.kill(os.getpid(), self.fault.signal)


if __name__ == "__main__":
    sys.exit(main())

"""Stages side by side: the same bits as one after the other, whatever happens to one of the processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace as with_
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from msgspec.structs import replace

from jobs import Interrupt, Terminate, job_of
from trainer import beside
from trainer.arms import own_arm, plain_arm
from trainer.beside import _handed, _taken, at_once, side_by_side
from trainer.counts import Counts
from trainer.data import load
from trainer.errors import Diverged, ProcessLost, Stopped
from trainer.estimate import Estimate, estimate
from trainer.metrics import epoch_rows
from trainer.pace import Paces
from trainer.pipeline import train_arms, train_teachers
from trainer.progress import Silent
from trainer.recipe import DataRecipe
from trainer.run import STUDENT, Run, Source, start_run
from trainer.threads import computing_with

SOURCE = Source(("clothes",))
TEACHERS = ("teachers/conv", "teachers/involution")


@pytest.fixture
def _two_threads(monkeypatch):
    """Let two tiny stages be worth processes of their own, with a thread each, as in the runs of the fixtures."""
    monkeypatch.setattr(beside, "LEAST_PIXELS", 1)
    with computing_with(2):
        yield


def same_weights(one: Run, other: Run, stage: str) -> bool:
    once, again = (run.weights(stage).read()[0] for run in (one, other))
    return once.keys() == again.keys() and all(torch.equal(once[name], again[name]) for name in once)


class Listener(Silent):
    """Keep the names of the stages that begin."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def begin(self, stage: str, steps: int) -> None:
        self.stages.append(stage)


@pytest.mark.slow
@pytest.mark.usefixtures("_two_threads")
def test_a_run_side_by_side_has_the_bits_of_one_with_a_thread(finished, tiny_recipe, tiny_data, tmp_path):
    run, told = start_run(tmp_path / "run", tiny_recipe, tiny_data, SOURCE), Listener()
    job = job_of(run, tiny_data, told)
    train_teachers(job)
    train_arms(job, [own_arm(tiny_recipe), plain_arm(tiny_recipe)])
    assert sorted(told.stages) == [
        *["storing logits"] * 2,
        "training arms/plain",
        "training student",
        *(f"training {stage}" for stage in TEACHERS),
    ]
    for stage in (*TEACHERS, STUDENT, "arms/plain"):
        assert same_weights(run, finished, stage), stage
        assert [row.loss for row in epoch_rows(run.folder, stage)] == [
            row.loss for row in epoch_rows(finished.folder, stage)
        ]
    stored, expected = (
        {path.name: path.read_bytes() for path in (it.folder / "logits").rglob("*.safetensors")}
        for it in (run, finished)
    )
    assert stored == expected
    assert not list(run.folder.glob("tmp*"))


@pytest.mark.slow
@pytest.mark.usefixtures("_two_threads")
def test_what_is_told_to_end_is_kept_and_continued(finished, tiny_recipe, tiny_data, tmp_path):
    run = start_run(tmp_path / "run", tiny_recipe, tiny_data, SOURCE)
    with leaving_no_child(), pytest.raises(Stopped, match="training teachers/involution: stopped by SIGTERM"):
        train_teachers(job_of(run, tiny_data, Terminate("training teachers/involution", 5)))
    assert run.checkpoint("teachers/involution").path.exists(), "in the middle of an epoch"
    train_teachers(job_of(run, tiny_data))
    assert all(same_weights(run, finished, stage) for stage in TEACHERS)


def children_of(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


@contextmanager
def leaving_no_child():
    before = children_of(os.getpid())  # earlier tests may have left a server of forks
    yield
    assert children_of(os.getpid()) <= before


def fails(job):
    raise Diverged("teachers/conv: the loss is nan")


def dies(job, by=signal.SIGKILL):
    job.progress.begin("training teachers/conv", 1)
    os.kill(os.getpid(), by)


def waits(job):
    while True:
        job.progress.step()
        time.sleep(0.05)


def threads_of(job):
    return torch.get_num_threads(), len(job.data.train), job.run.recipe.hash()


def interrupts(job):
    job.progress.begin("training teachers/conv", 1)
    job.progress.step()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "error", "words"),
    [
        (partial(dies, by=signal.SIGTERM), Stopped, "^training teachers/conv: stopped by SIGTERM"),
        (interrupts, KeyboardInterrupt, None),
        (fails, Diverged, "^teachers/conv: the loss is nan$"),
        (dies, ProcessLost, r"^training teachers/conv: its process ended \(SIGKILL\).*--threads 1"),
    ],
)
def test_one_that_fails_ends_all(work, error, words, tiny_recipe, tiny_data, tmp_path):
    job = job_of(Run(tmp_path, tiny_recipe), tiny_data, Interrupt("training teachers/conv", 1))
    with leaving_no_child(), computing_with(2), pytest.raises(error, match=words):
        side_by_side(job, [waits, work], 2)


@pytest.mark.slow
def test_each_has_its_share_of_the_threads_and_the_same_job(tiny_recipe, tiny_data, tmp_path):
    job = job_of(Run(tmp_path, tiny_recipe), tiny_data)
    with computing_with(5):
        answers = side_by_side(job, [threads_of] * 2, 2)
        assert side_by_side(job, [threads_of], 2) == answers[:1], "the last one has no more"
        assert torch.get_num_threads() == 5
    assert answers == [(2, len(tiny_data.train), tiny_recipe.hash())] * 2
    assert side_by_side(job, [threads_of] * 2, 1) == [(1, len(tiny_data.train), tiny_recipe.hash())] * 2


PARENT = """
import sys
from pathlib import Path
from test_beside import waits
from jobs import job_of
from trainer.beside import side_by_side
from trainer.recipe import read_recipe
from trainer.run import Run
from trainer.data import load
from trainer.recipe import DataRecipe
data = load([sys.argv[1]], DataRecipe())

class Tells:
    beside = lambda self: self
    step = lambda self, steps=1, note="": print(flush=True)

side_by_side(job_of(Run(Path(sys.argv[2]), read_recipe("demo")), data, Tells()), [waits, waits], 2)
"""


@pytest.mark.slow
def test_none_outlives_a_parent_that_is_killed(clothes, tmp_path):
    path = os.pathsep.join(map(str, [Path(__file__).parent, *sys.path]))
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, clothes, tmp_path],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.read(20)
        children = children_of(parent.pid)
        parent.kill()
    assert len(children) == 2
    until = time.monotonic() + 20
    while any(
        Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes() for child in children
    ):
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("form", ["memory", "files", "zip", "tar", "shards"])
def test_data_of_every_form_arrives_as_it_was(form, clothes, shards, tiny_recipe, tmp_path):
    how = DataRecipe(memory_gb=8 if form == "memory" else 0)
    source = shards if form == "shards" else clothes
    if form in ("zip", "tar"):
        source = Path(shutil.make_archive(str(tmp_path / "clothes"), form, clothes))
    data = load([source], how)
    job = job_of(Run(tmp_path, tiny_recipe), data)
    with _handed(job) as (file, spans):
        taken = _taken(file, spans, Silent())
    assert taken.data.hash() == data.hash()
    few, expected = taken.data.train.few(10), data.train.few(10)
    assert torch.equal(few.in_memory().pixels(), expected.in_memory().pixels())
    assert (few.names, taken.data.labels) == (expected.names, data.labels)
    assert taken.run.recipe == tiny_recipe
    assert not list(tmp_path.glob("tmp*")), "the file has no name"


def test_what_shares_nothing_has_all_threads(tiny_recipe, tiny_data, tmp_path, monkeypatch):
    job = job_of(Run(tmp_path, tiny_recipe), tiny_data)
    long = 10**5  # 78 million pixels
    with computing_with(4):
        assert at_once(job, [long, long]) == 2
        assert at_once(job, [long] * 9) == 4
        assert at_once(job, [long, 10**4]) == 1, "a short one is not worth a process"
        assert at_once(job, [long]) == 1
        assert at_once(job, [long, long], Counts(10**6, 0, 1, 1)) == 1, "2.4 GB"
        assert at_once(with_(job, device=torch.device("cuda")), [long, long]) == 1
        with monkeypatch.context() as under_torchrun:
            under_torchrun.setattr("trainer.parallel.is_shared", lambda: True)
            assert at_once(job, [long, long]) == 1
        monkeypatch.setitem(timm.models._registry._model_entrypoints, "own_net", fails)
        own = replace(tiny_recipe, teachers={"own": replace(tiny_recipe.teachers["conv"], model="own_net")})
        assert at_once(job_of(Run(tmp_path, own), tiny_data), [long, long]) == 1, "another process does not know it"
    assert at_once(job, [long, long]) == 1


def test_an_estimate_counts_what_is_done_at_once():
    stages = Estimate({"a": 10.0, "b": 4.0, "c": 5.0}, 2.0, {"student": 7.0, "arms/plain": 8.0})
    assert stages.seconds == 36
    assert str(stages).endswith("about 36 s in all")
    side_by_side = stages._replace(teachers_at_once=2, students_at_once=2)
    assert side_by_side.seconds == 10 + 2 + 8
    assert str(side_by_side).endswith("about 20 s in all, with 2 side by side")


def test_a_plan_times_stages_with_their_share(tiny_recipe, tiny_data, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("trainer.pace.computing_with", lambda threads: seen.append(threads) or computing_with(threads))
    monkeypatch.setattr(beside, "LEAST_PIXELS", 1)
    job = job_of(Run(tmp_path, tiny_recipe), tiny_data)
    with computing_with(2):
        found = estimate(tiny_recipe, [own_arm(tiny_recipe)], Paces(job, 0.01))
        alone = estimate(tiny_recipe, [own_arm(tiny_recipe)], Paces(job, 0.01, side_by_side=False))
    assert seen == [1, 1, 2, 1] + [2] * 4
    assert (found.teachers_at_once, found.students_at_once, alone.teachers_at_once) == (2, 1, 1)
    assert found.seconds < sum(found.teachers.values()) + found.store + sum(found.students.values())

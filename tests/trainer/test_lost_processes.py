"""One of several processes fails, ends, hangs or never comes; the others end soon, and one tells why."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest

from company import together
from jobs import request_of, student_of
from sdk.errors import FileError, LibkdError
from trainer import parallel
from trainer.arms import plain_arm
from trainer.lessons import LabelLessons
from trainer.progress import Silent
from trainer.run import open_run
from trainer.start import at_work
from trainer.train import train_student

pytestmark = pytest.mark.slow


class Dies(Silent):
    def step(self, steps: int = 1, note: str = "") -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def killed_in_training(data: str, out: str, recipe: str) -> None:
    progress = Dies() if parallel.local_rank() == 0 else Silent()
    with at_work(request_of(Path(data), Path(out), student_of(Path(recipe))), progress) as job:
        train_student(job, plain_arm(job.run.recipe), LabelLessons())


def test_a_process_that_is_killed_is_missed_by_the_others(clothes, tiny_recipe_file, tmp_path):
    answers = together(
        2, killed_in_training, str(clothes), str(tmp_path / "run"), str(tiny_recipe_file), folder=tmp_path / "a"
    )
    assert answers[0] is None
    assert answers[1][0] == "ProcessLost"
    assert "start the same command again" in answers[1][1]


class Hangs(Silent):
    def step(self, steps: int = 1, note: str = "") -> None:
        time.sleep(5)


def hanging_in_training(data: str, out: str, recipe: str) -> None:
    parallel.WAIT = timedelta(seconds=3)
    progress = Hangs() if parallel.local_rank() == 0 else Silent()
    with at_work(request_of(Path(data), Path(out), student_of(Path(recipe))), progress) as job:
        train_student(job, plain_arm(job.run.recipe), LabelLessons())


def test_a_process_that_hangs_is_given_up(clothes, tiny_recipe_file, tmp_path):
    answers = together(
        2, hanging_in_training, str(clothes), str(tmp_path / "run"), str(tiny_recipe_file), folder=tmp_path / "a"
    )
    assert answers[1][0] == "ProcessLost"


def hanging_while_two_numbers_are_summed() -> None:
    """Hang in the first process. The other one needs it twice, as for the gradients of a net with several parts."""
    parallel.WAIT = timedelta(seconds=2)
    with parallel.joined():
        if parallel.is_first():
            time.sleep(4)
            return
        with suppress(RuntimeError):
            parallel.total(1)
        parallel.total(1)  # gloo has closed the connection itself, and says so in other words


def test_a_process_that_hangs_is_given_up_whatever_the_others_needed_it_for(tmp_path):
    answers = together(2, hanging_while_two_numbers_are_summed, folder=tmp_path)
    assert [error for error, _ in answers] == ["ProcessLost", "ProcessLost"]  # the first one wakes up too late


def slow_at_first() -> int:
    parallel.WAIT = timedelta(seconds=1)
    with parallel.joined():
        parallel.from_first(lambda: time.sleep(3))
        return parallel.total(1)


def test_a_process_may_take_longer_for_work_of_its_own(tmp_path):
    assert together(2, slow_at_first, folder=tmp_path) == [2, 2]


def hanging_at_the_end() -> None:
    parallel.PATIENCE = timedelta(seconds=2)
    with parallel.joined():
        if parallel.is_first():
            time.sleep(5)


def test_a_process_that_hangs_in_its_last_work_is_given_up(tmp_path):
    answers = together(2, hanging_at_the_end, folder=tmp_path)
    assert answers[1][0] == "ProcessLost"


def alone_of_two() -> None:
    parallel.WAIT = timedelta(seconds=3)
    os.environ["WORLD_SIZE"] = "2"
    with parallel.joined():
        raise AssertionError("the work began")


def test_processes_that_do_not_come_are_given_up(tmp_path):
    (answer,) = together(1, alone_of_two, folder=tmp_path)
    assert answer[0] == "ProcessLost"
    assert re.search(r"did not all come to 127\.0\.0\.1:\d+, where each waits 0\.05 minutes for the others", answer[1])


def failing(ranks: list[int]) -> list[object]:
    """Fail in some of the processes. Return the code of the error, and whether another process tells it."""
    try:
        with parallel.joined():
            if parallel.rank() in ranks:
                raise FileError("the disk is full")
            while True:
                parallel.total(1)
    except LibkdError as fault:
        return [fault.code, parallel.is_told()]


@pytest.mark.parametrize("ranks", [[0], [1], [0, 1]])
def test_one_process_tells_why_the_work_ends(ranks, tmp_path):
    answers = together(2, failing, ranks, folder=tmp_path)
    assert sorted(is_told for _, is_told in answers) == [False, True]
    assert [code for code, is_told in answers if not is_told] == ["file-unwritable"]
    assert [code == "file-unwritable" for code, _ in answers] == [rank in ranks for rank in range(2)]


def connected_slowly(mark: str) -> bool:
    """Let one process take long to connect. Return whether it was connected when the work began."""
    connect = parallel.dist.new_group

    def slowly(*, backend: str, timeout: timedelta) -> object:
        group = connect(backend=backend, timeout=timeout)
        time.sleep(1)
        Path(mark).touch()
        return group

    chosen = slowly if os.environ["RANK"] == "1" else connect
    with patch.object(parallel.dist, "new_group", chosen), parallel.joined():
        return Path(mark).exists()


def test_the_work_begins_when_all_are_connected(tmp_path):
    assert together(2, connected_slowly, str(tmp_path / "connected"), folder=tmp_path) == [True, True]


def interrupted() -> bool:
    with suppress(KeyboardInterrupt), parallel.joined():
        raise KeyboardInterrupt
    return parallel.is_told()


def test_one_process_tells_that_all_were_interrupted(tmp_path):
    assert sorted(together(2, interrupted, folder=tmp_path)) == [False, True]


def without_a_place() -> None:
    del os.environ["MASTER_ADDR"]
    with parallel.joined():
        raise AssertionError("the work began")


def test_processes_without_a_place_to_meet_are_refused(tmp_path):
    answers = together(2, without_a_place, folder=tmp_path)
    assert answers[0] == answers[1]
    assert answers[0][0] == "UsageError"
    assert "MASTER_ADDR is not; start the command by torchrun" in answers[0][1]


def test_torchrun_is_told_to_end(clothes, tiny_recipe_file, tmp_path):
    options = ["--data", clothes, "--recipe", tiny_recipe_file, "--epochs", "500", "--threads", "1", "--device", "cpu"]
    command = [Path(sys.executable).with_name("torchrun"), "--nproc-per-node", "2", "-m", "libkd_sdk"]
    run = tmp_path / "run"
    with subprocess.Popen(
        [*command, "teach", "conv", *options, "--out", run], stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            if "epoch 2/500" in line:
                break
        process.send_signal(signal.SIGTERM)
        text = process.stderr.read()
    assert text.count("stopped by SIGTERM; what was done is kept") == 1
    facts = open_run(run).checkpoint("teachers/conv").read()[1]
    assert int(facts["epoch"]) >= 2

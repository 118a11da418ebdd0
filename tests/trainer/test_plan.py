"""A plan for more images than there are, and for more machines than this one."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from msgspec.structs import replace

from jobs import job_of
from trainer.counts import Counts
from trainer.data import FileImages, MemoryImages
from trainer.estimate import IMAGINED, Estimate, imagined
from trainer.logits import Cost
from trainer.pace import Paces
from trainer.plan import plan_run
from trainer.progress import Silent
from trainer.run import Run, Source
from trainer.sharing import most_trainers, refusal
from trainer.start import choose_sample

MORE_MB = 64
"""The memory that a plan may need beyond that of one for fewer images. The labels of a billion images take 8,000."""


class Ticking:
    """A clock on which every look takes a second, so that a plan is the same each time."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def planned(tiny_recipe, monkeypatch):
    def plan(images, nodes=1, **changes):
        monkeypatch.setattr("trainer.pace.time", Ticking())
        recipe, counts = replace(tiny_recipe, **changes), Counts.holding_out(images, 0.01)
        data = imagined(recipe, counts.at_most(IMAGINED), classes=3, size=28)
        return plan_run(job_of(Run(Path(), recipe), data), counts, nodes=nodes, seconds=0.0)

    return plan


def test_time_and_storage_grow_with_the_images_and_memory_does_not(planned):
    few = planned(100_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    many = planned(1_000_000_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MORE_MB * 1024
    assert many.store.bytes == 10_000 * few.store.bytes == 2 * 10**9 * 2 * 3 * 2  # views, images, teachers, classes
    for one, other in zip(_seconds(few.epochs), _seconds(many.epochs), strict=True):
        assert other == pytest.approx(10_000 * one)
    for one, other in zip(_seconds(few.stages), _seconds(many.stages), strict=True):
        assert other == pytest.approx(10_000 * one, rel=0.01)  # a start takes as long for few images
    assert many.stages.store == pytest.approx(many.store.fill_seconds)
    assert many.stages.store == pytest.approx(2 * many.epochs.store)  # views


def test_machines_divide_the_store_and_as_much_of_the_training_as_the_lanes_allow(planned, tiny_recipe):
    one, many = planned(1000), planned(1000, nodes=32)
    assert one.least == one.stages == many.stages
    assert (one.processes, one.trainers, one.limit) == (1, 1, "")
    assert (many.processes, many.trainers) == (32, 8)
    assert many.limit.startswith("32 processes do not divide data.lanes = 8; ")
    assert many.least.store == many.stages.store / 32
    assert many.least.teachers == {name: seconds / 8 for name, seconds in many.stages.teachers.items()}
    assert many.least.students == {"student": many.stages.students["student"] / 8}
    wide = planned(1000, nodes=2, data=replace(tiny_recipe.data, lanes=2))
    assert (wide.trainers, wide.limit) == (2, "")
    assert wide.least.seconds == pytest.approx(wide.stages.seconds / 2)


def test_without_a_store_there_is_only_training(planned, tiny_recipe):
    plan = planned(1000, nodes=2, views=replace(tiny_recipe.views, mode="online"))
    assert plan.store is plan.pays_from is None
    assert plan.epochs.store == plan.least.store == 0


def test_more_machines_that_fill_let_a_store_pay_off_earlier():
    cost = Cost(bytes=1, fill_seconds=1200.0, online_seconds=100.0)
    assert cost.students == cost.shared(8, 8).students == 13  # 12 cost the same
    assert cost.shared(32, 8).students == 4


@pytest.mark.parametrize(
    ("processes", "lanes", "batch", "images", "trainers", "reason"),
    [
        (1, 8, 50, 9, 1, ""),
        (4, 8, 16, 99, 4, ""),
        (6, 8, 16, 99, 4, "6 processes do not divide data.lanes = 8"),
        (6, 6, 24, 99, 6, ""),
        (4, 8, 50, 99, 1, "batch = 50 has no 8 equal lanes of pairs"),
        (2, 8, 16, 9, 1, "9 images do not fill a batch of 16"),
        (10**9, 8, 16, 99, 8, "1000000000 processes do not divide"),
    ],
)
def test_processes_that_can_not_train_together_are_counted(
    processes, lanes, batch, images, trainers, reason, tiny_recipe
):
    student = replace(tiny_recipe.student, training=replace(tiny_recipe.student.training, batch=batch))
    teachers = {
        name: replace(it, training=replace(it.training, batch=batch)) for name, it in tiny_recipe.teachers.items()
    }
    recipe = replace(tiny_recipe, data=replace(tiny_recipe.data, lanes=lanes), student=student, teachers=teachers)
    counts = Counts(images, 0, 1, 1)
    assert most_trainers(recipe, counts, processes) == trainers
    found = refusal(recipe, counts, processes)
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


def test_images_in_shards_are_shared_by_whole_lanes_only(tiny_recipe):
    counts = Counts(99, 0, 1, 1)
    assert refusal(tiny_recipe, counts, 1, is_streamed=True) == ""
    assert most_trainers(tiny_recipe, counts, 8, is_streamed=True) == 8
    lanes = replace(tiny_recipe, data=replace(tiny_recipe.data, lanes=16))
    assert refusal(lanes, counts, 1) == ""
    assert refusal(lanes, counts, 1, is_streamed=True).startswith("batch = 16 has no 16 equal lanes of pairs")


def test_a_sample_stands_for_more_images_of_its_kind(clothes, tiny_recipe):
    def chosen(images):
        return choose_sample(Source((str(clothes),)), images, tiny_recipe, Silent())

    recipe, data, counts = chosen(6600)
    assert counts == (6600, 0, 600, 2400)  # of 66, 6 and 24
    assert isinstance(data.train.images, MemoryImages)
    assert recipe == tiny_recipe
    recipe, data, counts = chosen(10**9)
    assert isinstance(data.train.images, FileImages), "so many are decoded in every epoch"
    assert (len(data.train), counts.train) == (66, 10**9)
    assert recipe == tiny_recipe


def test_a_cpu_times_some_batches_and_not_as_many_images_as_a_gpu_renders_at_once(tiny_recipe):
    """A million tiny images in shards would all be opened for an estimate."""
    data = imagined(tiny_recipe, Counts(5000, 0, 100, 100), classes=3, size=28)
    assert len(Paces(job_of(Run(Path(), tiny_recipe), data), 0.1).data.train) == 8 * 16


def test_a_split_that_is_there_does_not_shrink_to_nothing():
    assert Counts(1000, 0, 10, 10).grown_to(20) == (20, 0, 1, 1)


def _seconds(stages: Estimate) -> list[float]:
    return [*stages.teachers.values(), stages.store, *stages.students.values()]

"""Training and the logit store with data in shards."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

import store_reader
from jobs import Terminate, job_of
from trainer.arms import own_arm
from trainer.data import Form, load, pack, wanted
from trainer.errors import RunError, Stopped, StoreError
from trainer.lessons import open_store
from trainer.logits import LogitStore, check, fill_missing
from trainer.pipeline import load_teachers, run_pipeline
from trainer.progress import Silent
from trainer.recipe import DataRecipe
from trainer.run import Source, open_run, start_run
from trainer.units import Part

SOURCE = Source(("shards",))


@pytest.fixture(scope="module")
def shards(clothes, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "shards"
    pack(wanted([clothes]), out, DataRecipe(), Form(), per_shard=25, skip_bad=False, progress=Silent())
    return out


@pytest.fixture(scope="module")
def data(shards):
    return load([shards])


@pytest.fixture(scope="module")
def short(tiny_recipe):
    """The tiny recipe with fewer epochs."""
    teachers = {name: replace(it, training=replace(it.training, epochs=2)) for name, it in tiny_recipe.teachers.items()}
    student = replace(tiny_recipe.student, training=replace(tiny_recipe.student.training, epochs=3))
    return replace(tiny_recipe, teachers=teachers, student=student)


@pytest.fixture(scope="module")
def run(short, data, tmp_path_factory):
    """A whole run on shards. Do not change it: change a copy."""
    run = start_run(tmp_path_factory.mktemp("runs") / "run", short, data, SOURCE)
    run_pipeline(job_of(run, data))
    return run


@pytest.fixture
def store(run, data):
    return open_store(run, data, own_arm(run.recipe), load_teachers(job_of(run, data)))


def test_a_shard_of_data_is_a_unit_of_the_store(store, data):
    assert store.header.shards == data.train.unit_sizes == (25, 25, 16)
    assert store.missing() == []
    assert len(list(store.folder.glob("view-*.safetensors"))) == 2 * 3


def test_a_reader_of_its_own_finds_the_logits_of_every_image(store, data):
    units = store.shards()
    for view in range(2):
        rows = [data.train.rows(store.header.seed, view, places) for places in units]
        placed = torch.cat([one.indices for one in rows])
        names = {i: name for places in units for i, name in names_in(data.train, places)}
        found = store_reader.read_logits(store.folder, [names[i] for i in range(len(data.train))], view)
        at = store.read_by_unit(view, torch.device("cpu"), 2)
        drawn = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
        np.testing.assert_array_equal(found[placed[drawn]], at(drawn).numpy())
        np.testing.assert_array_equal(store.read(view).at(drawn).numpy(), at(drawn).numpy())


def names_in(train, places: range) -> list[tuple[int, str]]:
    files, start = train._open(train._shard_at(places.start)).result(), places.start
    return [(start + row, name) for row, name in enumerate(files.names)]


def test_the_stored_answers_are_those_to_the_images(store, run, data):
    checked = check(store, load_teachers(job_of(run, data)), data.train, 60)
    assert checked.within
    assert checked.samples >= 40
    assert checked.top1_agreement == 1


def test_parts_of_a_store_are_the_units_of_the_whole(store, run, data, tmp_path):
    teachers, other = load_teachers(job_of(run, data)), LogitStore(tmp_path / "logits", store.header, 2)
    for number in (2, 1):
        assert fill_missing(other, teachers, data.train, Silent(), Part(number, 2)).units == 3
    for unit in store.units():
        assert other.path(*unit).read_bytes() == store.path(*unit).read_bytes()


@pytest.mark.parametrize(("stage", "steps"), [("teachers/conv", 3), ("student", 5)])
def test_a_run_that_is_told_to_end_goes_on_in_the_middle_of_a_shard(stage, steps, run, short, data, tmp_path):
    again = start_run(tmp_path / "run", short, data, SOURCE)
    with pytest.raises(Stopped):
        run_pipeline(job_of(again, data, Terminate(f"training {stage}", steps)))
    run_pipeline(job_of(start_run(tmp_path / "run", short, data, SOURCE), data))
    once, other = (load_file(one.folder / stage / "model.safetensors") for one in (run, again))
    assert all(torch.equal(once[name], other[name]) for name in once)


def test_a_run_and_its_store_refuse_other_shards(run, short, clothes, data, tmp_path):
    other_place = tmp_path / "others"
    pack(wanted([clothes]), other_place, DataRecipe(), Form(), per_shard=20, skip_bad=False, progress=Silent())
    other = load([other_place])
    with pytest.raises(RunError, match="belongs to other data"):
        start_run(run.folder, short, other, SOURCE)
    copy = open_run(shutil.copytree(run.folder, tmp_path / "run"))
    with pytest.raises(StoreError, match="made with another data"):
        open_store(copy, other, own_arm(copy.recipe), load_teachers(job_of(copy, data)))

"""`precompute --check` fails for every error above its tolerance, and reads every unit."""

import shutil

import pytest
import torch
from msgspec.structs import replace

from jobs import job_of, with_flipped_bit
from trainer.arms import own_arm
from trainer.errors import StoreError
from trainer.lessons import open_store
from trainer.logits import LogitStore, check, fill_missing
from trainer.pipeline import check_store, load_teachers
from trainer.progress import Silent
from trainer.run import Source, start_run


@pytest.fixture
def teachers(copy, tiny_data):
    return load_teachers(job_of(copy, tiny_data))


@pytest.fixture
def store(copy, teachers, tiny_data) -> LogitStore:
    return open_store(copy, tiny_data, own_arm(copy.recipe), teachers)


def spoilt(store: LogitStore, **changes) -> None:
    """Write changed tensors to all units as if the teachers had answered so."""
    for unit in store.units():
        tensors, facts = store.unit(*unit).read()
        for name, change in changes.items():
            tensors[name.replace("__", ".")] = change(tensors[name.replace("__", ".")])
        store.unit(*unit).write(tensors, **facts)


def in_one_row(change):
    def changed(tensor):
        tensor[7] = change(tensor[7])
        return tensor

    return changed


@pytest.mark.parametrize(
    "change",
    [lambda row: row + 51519, lambda row: -row, lambda row: row.roll(1), lambda row: row + row.abs().max() / 8],
)
def test_check_finds_a_single_wrong_answer(change, copy, store, tiny_data):
    assert check_store(job_of(copy, tiny_data), own_arm(copy.recipe))[1].within
    spoilt(store, involution__logits=in_one_row(change))
    found = check_store(job_of(copy, tiny_data), own_arm(copy.recipe))[1]
    assert not found.within
    assert found.max_abs_error > found.tolerance


def test_check_finds_damage_of_a_teacher_with_small_logits(store, teachers, tiny_data, tmp_path):
    """The tolerance is a share of the teacher's own largest logit, not of another teacher's."""
    with torch.no_grad():
        teachers["conv"].net.fc.weight.mul_(1000)
    loud = LogitStore(tmp_path / "loud", store.header, 2)
    fill_missing(loud, teachers, tiny_data.train, Silent())
    assert check(loud, teachers, tiny_data.train).within
    spoilt(loud, involution__logits=in_one_row(lambda row: row.roll(1)))
    assert not check(loud, teachers, tiny_data.train).within


def test_check_reads_every_unit(copy, store, tiny_data, monkeypatch):
    monkeypatch.setattr("trainer.logits.checking.UNITS", 1)
    for view in range(2):
        path = store.path(view, 0)
        whole = path.read_bytes()
        path.write_bytes(with_flipped_bit(whole, 8 * len(whole) - 1))
        with pytest.raises(StoreError, match=rf"view-000{view}-shard-0000"):
            check_store(job_of(copy, tiny_data), own_arm(copy.recipe))
        path.write_bytes(whole)


@pytest.fixture
def top(copy, teachers, tiny_data, tmp_path) -> LogitStore:
    """A store of the largest two of three logits."""
    recipe = replace(copy.recipe, views=replace(copy.recipe.views, top_k=2))
    run = start_run(tmp_path / "top", recipe, tiny_data, Source(("clothes",)))
    store = open_store(run, tiny_data, own_arm(recipe), teachers)
    fill_missing(store, teachers, tiny_data.train, Silent())
    assert check(store, teachers, tiny_data.train).within
    return store


def exchanged(indices):
    """Name the class that was left out instead of the second one."""
    indices = indices.long()
    left_out = 3 - indices.sum(-1, keepdim=True)
    return torch.cat([indices[:, :1], left_out], dim=1).to(torch.uint16)


@pytest.mark.parametrize("change", [exchanged, lambda indices: indices.flip(-1), in_one_row(lambda row: row.flip(-1))])
def test_check_finds_wrong_classes_of_top_k_answers(change, top, teachers, tiny_data):
    spoilt(top, conv__indices=change)
    assert not check(top, teachers, tiny_data.train).within


def test_check_finds_that_not_the_largest_logits_were_stored(top, teachers, tiny_data):
    """Each value is the logit of its class, but another class has a larger one."""
    whole = LogitStore(top.folder.with_name("whole"), replace(top.header, top_k=0), 2)
    fill_missing(whole, teachers, tiny_data.train, Silent())
    for view in range(2):
        logits = whole.unit(view, 0).read()[0]["conv.logits"].float()
        tensors, facts = top.unit(view, 0).read()
        lowest = logits.sort(-1).indices[:, :2].flip(-1)
        largest = logits.sort(-1).indices[:, 2:]
        tensors["conv.indices"] = lowest.to(torch.uint16)
        tensors["conv.values"] = logits.gather(-1, lowest).half()
        tensors["conv.rest"] = logits.gather(-1, largest)[:, 0]
        top.unit(view, 0).write(tensors, **facts)
    found = check(top, teachers, tiny_data.train)
    assert found.max_rest_error < 0.01
    assert not found.within


def test_check_finds_a_class_that_is_stored_twice(top, teachers, tiny_data):
    spoilt(top, conv__indices=lambda indices: indices[:, :1].expand(-1, 2))
    with pytest.raises(StoreError, match=r"a class is stored twice\); remove it and precompute again"):
        check(top, teachers, tiny_data.train)


def test_check_writes_nothing(copy, tiny_data):
    shutil.rmtree(copy.folder / "logits")
    with pytest.raises(StoreError, match=r"view-0000-shard-0000\.safetensors: missing or damaged"):
        check_store(job_of(copy, tiny_data), own_arm(copy.recipe))
    assert not (copy.folder / "logits").exists()

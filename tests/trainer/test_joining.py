"""Stores that were filled in parts or elsewhere become one, without a copy of their logits."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from jobs import job_of, with_flipped_bit
from trainer.arms import own_arm
from trainer.errors import StoreError
from trainer.joining import join, store_in
from trainer.lessons import open_store
from trainer.logits import LogitStore, fill_missing
from trainer.pipeline import load_teachers
from trainer.progress import Silent
from trainer.units import Part


@pytest.fixture
def teachers(copy, tiny_data):
    return load_teachers(job_of(copy, tiny_data))


@pytest.fixture
def whole(copy, teachers, tiny_data, tmp_path) -> LogitStore:
    """A full store of eight units."""
    header = open_store(copy, tiny_data, own_arm(copy.recipe), teachers).header
    store = LogitStore(tmp_path / "whole", replace(header, shard=18), 2)
    fill_missing(store, teachers, tiny_data.train, Silent())
    return store


def beside(store: LogitStore, name: str, units=(), **header) -> LogitStore:
    """Return another store, which has copies of some units of the first one."""
    other = LogitStore(store.folder.with_name(name), replace(store.header, **header), store.views)
    other.begin()
    for unit in units:
        shutil.copy(store.path(*unit), other.path(*unit))
    return other


def everything(store: LogitStore) -> torch.Tensor:
    return torch.stack([store.read(view).at(torch.arange(store.header.samples)) for view in range(2)])


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_parts_fill_a_store_in_any_order_and_each_unit_once(count, whole, teachers, tiny_data):
    store, computed = beside(whole, "parts"), []
    for number in sorted(range(1, count + 1), key=lambda it: it * 7 % 5):
        before = set(store.missing())
        done = fill_missing(store, teachers, tiny_data.train, Silent(), Part(number, count))
        computed.append(before - set(store.missing()))
        assert done.units == len(computed[-1]) in (8 // count, -(-8 // count))
    assert sum(map(len, computed)) == 8
    assert torch.equal(everything(store), everything(whole))


def test_a_run_without_a_part_makes_up_for_a_part_that_was_killed(whole, teachers, tiny_data):
    store = beside(whole, "killed")
    fill_missing(store, teachers, tiny_data.train, Silent(), Part(2, 2))
    with pytest.raises(KeyboardInterrupt):
        fill_missing(store, teachers, tiny_data.train, StopInUnit(2), Part(1, 2))
    assert len(store.missing()) == 3  # the unit that it was computing is lost, those before it are not
    assert store.missing(Part(2, 2)) == []
    assert fill_missing(store, teachers, tiny_data.train, Silent()).units == 3
    assert torch.equal(everything(store), everything(whole))


def test_processes_that_know_nothing_of_each_other_do_not_compute_the_same_units_together(whole, teachers, tiny_data):
    first = set()
    for number in range(6):
        store = beside(whole, f"process-{number}")
        with pytest.raises(KeyboardInterrupt):
            fill_missing(store, teachers, tiny_data.train, StopInUnit(2))
        first |= set(store.units()) - set(store.missing())
    assert len(first) > 1


class StopInUnit(Silent):
    def __init__(self, unit: int) -> None:
        self.left = unit

    def step(self, steps: int = 1, note: str = "") -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_joined_units_are_the_same_files(whole, teachers, tiny_data):
    units = list(whole.units())
    here, one, other = (beside(whole, name, some) for name, some in (("a", units[:3]), ("b", units[2:5]), ("c", units)))
    kept = here.path(*units[2]).stat().st_ino
    assert join(here, one.folder, Silent()) == 2
    assert len(here.missing()) == 3
    assert join(here, other.folder, Silent()) == 3
    assert here.path(*units[2]).stat().st_ino == kept
    assert here.path(*units[3]).samefile(one.path(*units[3]))
    assert here.path(*units[7]).samefile(other.path(*units[7]))
    assert join(here, other.folder, Silent()) == 0
    shutil.rmtree(one.folder)
    shutil.rmtree(other.folder)
    assert torch.equal(everything(here), everything(whole))
    assert not list(here.folder.glob(".*"))


def test_a_store_begins_by_joining(whole):
    new = LogitStore(whole.folder.with_name("new"), whole.header, 1)
    assert join(new, whole.folder, Silent()) == 4  # a run that needs one view takes one
    assert (new.folder / "store.json").read_bytes() == (whole.folder / "store.json").read_bytes()


def test_the_file_behind_a_link_is_joined(whole):
    new, unit = beside(whole, "new"), next(iter(whole.units()))
    linked = beside(whole, "linked")
    linked.path(*unit).symlink_to(whole.path(*unit))
    assert join(new, linked.folder, Silent()) == 1
    assert not new.path(*unit).is_symlink()
    assert new.path(*unit).samefile(whole.path(*unit))


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("seed", 8),
        ("data", "another"),
        ("spec_hash", "another"),
        ("dtype", "int8"),
        ("shard", 20),
        ("teachers", {"conv": "another", "involution": "weights"}),
    ],
)
def test_a_store_that_was_made_for_something_else_is_not_joined(field, other, whole):
    here, foreign = beside(whole, "here"), beside(whole, "foreign", **{field: other})
    with pytest.raises(StoreError, match=rf"foreign: made with another {field} \(.*, not .*\); only stores of copies"):
        join(here, foreign.folder, Silent())
    assert here.missing() == list(here.units())


def test_a_damaged_unit_is_not_joined_and_those_before_it_are(whole):
    here, broken = beside(whole, "here"), beside(whole, "broken", whole.units())
    for damage in (lambda it: it[:-10], lambda it: with_flipped_bit(it, 8 * len(it) - 1), lambda _: b""):
        broken.path(1, 0).write_bytes(damage(whole.path(1, 0).read_bytes()))
        with pytest.raises(StoreError, match=r"broken/view-0001-shard-0000\.\w+: missing or damaged .*; remove it and"):
            join(here, broken.folder, Silent())
    assert here.missing() == [(1, shard) for shard in range(4)]
    shutil.copy(whole.path(0, 0), broken.path(1, 0))
    with pytest.raises(StoreError, match="it holds view 0, shard 0 of store"):
        join(here, broken.folder, Silent())
    broken.path(1, 0).unlink()
    assert join(here, broken.folder, Silent()) == 3
    assert here.missing() == [(1, 0)]


def test_a_store_is_not_joined_to_itself(whole, copy):
    again = whole.folder.with_name("again")
    again.symlink_to(whole.folder)
    for name in (whole.folder, again):
        with pytest.raises(StoreError, match="is the store of this run itself; name another one by --join"):
            join(whole, name, Silent())


def test_only_a_store_or_a_run_with_one_can_be_joined(copy, tmp_path):
    assert store_in(copy.folder) == copy.folder / "logits"
    assert store_in(copy.folder / "logits") == copy.folder / "logits"
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.rmtree(copy.folder / "logits")
    for folder, place in (
        (empty, empty),
        (tmp_path / "none", tmp_path / "none"),
        (copy.folder, copy.folder / "logits"),
    ):
        with pytest.raises(StoreError, match=rf"{place}: no logit store there \(store\.json is missing\); name a run"):
            store_in(folder)


def test_a_header_of_a_newer_version_is_not_joined(whole):
    here, newer = beside(whole, "here"), beside(whole, "newer")
    path = newer.folder / "store.json"
    path.write_text(path.read_text().replace('"seed"', '"colour": 3,\n  "seed"'))
    with pytest.raises(StoreError, match=r"newer/store\.json: damaged \(Object contains unknown field `colour`"):
        join(here, newer.folder, Silent())


def test_units_on_another_file_system_are_not_copied(whole):
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == whole.folder.stat().st_dev:
        pytest.skip("there is no second file system at /dev/shm")
    far = memory / f"libkd-test-{os.getpid()}"
    shutil.copytree(whole.folder, far)
    try:
        here = beside(whole, "here")
        with pytest.raises(StoreError, match=r"shard-0000\.safetensors: can't be linked into .*/here \(.*\); copy its"):
            join(here, far, Silent())
        assert here.missing() == list(here.units())
    finally:
        shutil.rmtree(far)

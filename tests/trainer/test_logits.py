"""The store: what is read is what the teachers say, whatever was interrupted, moved or damaged in between."""

import pytest
import torch
from msgspec.structs import replace

from trainer.data import load, to_input
from trainer.errors import RunError, StoreError
from trainer.logits import LogitStore, check, fill
from trainer.recipe import Data, read_recipe
from trainer.run import Run, create_teacher
from trainer.stages import open_store, precompute
from trainer.views import order, render
from trainer.watch import Unwatched


@pytest.fixture(scope="module")
def teachers(tiny_recipe, tiny_data):
    torch.manual_seed(0)
    nets = {name: create_teacher(teacher, 3).eval() for name, teacher in tiny_recipe.teachers.items()}
    with torch.no_grad():
        for net in nets.values():
            net.fc.weight.mul_(30)  # untrained nets answer almost alike to everything
    return nets


@pytest.fixture
def filled(tiny_recipe, tiny_data, teachers, tmp_path) -> LogitStore:
    store = open_store(Run(tmp_path, tiny_recipe), tiny_data, teachers)
    fill(store, teachers, tiny_data.train, tiny_data.preprocessing, Unwatched())
    return store


def with_shards_of(store, size, folder):
    return LogitStore(folder, replace(store.header, shard=size))


def test_stored_logits_are_the_teachers_answers_one_picture_pair_at_a_time(filled, tiny_data, teachers):
    header, split = filled.header, tiny_data.train
    for view in range(header.views):
        stored = filled.read(view)
        assert stored.dtype == torch.float16
        laid_out = order(header.seed, split.ids, view)
        for start in range(0, len(split), 2):
            pair = laid_out[start : start + 2]
            pixels = render(split.images[pair], split.ids[pair], seed=header.seed, view=view, spec=header.spec).pixels
            with torch.no_grad():
                answers = [teacher(to_input(pixels, tiny_data.preprocessing)) for teacher in teachers.values()]
            torch.testing.assert_close(
                stored[start : start + 2].float(), torch.stack(answers, 1), rtol=2**-10, atol=2e-3
            )
    assert (filled.read(0) != filled.read(1)).float().mean() > 0.9


def test_the_size_of_shards_and_of_batches_changes_nothing(filled, tiny_data, teachers, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.logits.precompute.FILL_BATCH", 6)
    other = with_shards_of(filled, 10, tmp_path / "other")
    fill(other, teachers, tiny_data.train, tiny_data.preprocessing, Unwatched())
    assert len(other.shards()) > 1
    for view in range(2):
        torch.testing.assert_close(other.read(view).float(), filled.read(view).float(), rtol=2**-9, atol=2e-3)


def test_a_restart_computes_what_is_missing_and_nothing_else(filled, tiny_data, teachers, tmp_path):
    store = with_shards_of(filled, 22, tmp_path / "units")
    fill(store, teachers, tiny_data.train, tiny_data.preprocessing, Unwatched())
    whole = [store.read(view) for view in range(2)]
    lost = [(0, 1), (1, 0)]
    kept = {unit: store.path(*unit).stat().st_mtime_ns for unit in store.units() if unit not in lost}
    for unit in lost:
        store.path(*unit).unlink()
    (store.folder / ".view-0000-shard-0001.safetensors.99").write_bytes(b"cut off while it was written")
    assert store.missing() == lost
    fill(store, teachers, tiny_data.train, tiny_data.preprocessing, Unwatched())
    assert store.missing() == []
    assert {unit: store.path(*unit).stat().st_mtime_ns for unit in kept} == kept
    for view in range(2):
        assert torch.equal(store.read(view), whole[view])


def test_check_finds_nothing_in_a_good_store_and_something_in_a_bad_one(filled, tiny_data, teachers):
    good = check(filled, teachers, tiny_data.train, tiny_data.preprocessing)
    assert good["samples"] >= 48
    assert good["max_abs_error"] < 2e-2
    assert good["top1_agreement"] > 0.99
    for view in range(2):
        shuffled = filled.read(view).roll(1, 0)
        filled.write(view, 0, {name: shuffled[:, k] for k, name in enumerate(filled.header.teachers)})
    bad = check(filled, teachers, tiny_data.train, tiny_data.preprocessing)
    assert bad["max_abs_error"] > 10 * good["max_abs_error"]


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("seed", 8),
        ("views", 3),
        ("samples", 11),
        ("classes", 4),
        ("data", "another"),
        ("spec_hash", "another"),
        ("teachers", {"conv": "another", "involution": "weights"}),
    ],
)
def test_a_store_that_was_made_for_something_else_is_refused_by_name(filled, field, other):
    with pytest.raises(StoreError, match=rf"made with another {field} \(.*, not .*\); remove the folder"):
        LogitStore(filled.folder, replace(filled.header, **{field: other}))


def test_other_views_data_or_teachers_are_noticed(filled, tiny_recipe, tiny_data, teachers, clothes):
    run = Run(filled.folder.parent, tiny_recipe)
    spec = replace(tiny_recipe.views.spec, flip=0.4)
    with pytest.raises(StoreError, match="another spec"):
        open_store(replace_recipe(run, views=replace(tiny_recipe.views, spec=spec)), tiny_data, teachers)
    with pytest.raises(StoreError, match="another data"):
        open_store(run, load([clothes], Data(size=24)), teachers)
    retrained = dict(teachers)
    retrained["conv"] = create_teacher(tiny_recipe.teachers["conv"], 3)
    with pytest.raises(StoreError, match="another teachers"):
        open_store(run, tiny_data, retrained)


def replace_recipe(run, **changes):
    return Run(run.folder, replace(run.recipe, **changes))


@pytest.mark.parametrize("damage", ["cut", "other names", "other shape"])
def test_a_damaged_unit_is_named(filled, damage):
    path = filled.path(1, 0)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "other names":
        filled.write(1, 0, {"conv": torch.zeros(len(filled.shards()[0]), 3)})
    else:
        filled.write(1, 0, {name: torch.zeros(4, 3) for name in filled.header.teachers})
    with pytest.raises(StoreError, match=r"view-0001-shard-0000\.safetensors: missing or damaged"):
        filled.read(1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
def test_answers_that_float16_can_not_hold_are_refused(filled, value):
    before = filled.path(0, 0).read_bytes()
    with pytest.raises(StoreError, match="'conv' answers with logits beyond float16"):
        filled.write(0, 0, {"conv": torch.full((4, 3), value)})
    assert filled.path(0, 0).read_bytes() == before


def test_precompute_asks_for_trained_teachers(tiny_recipe, tiny_data, tmp_path):
    with pytest.raises(RunError, match="teacher 'conv' is not trained; `libkd-sdk teach conv --out"):
        precompute(Run(tmp_path, tiny_recipe), tiny_data, torch.device("cpu"), Unwatched())


def test_no_more_views_than_epochs_are_stored(tiny_recipe_file, tiny_data, teachers, tmp_path):
    recipe = read_recipe(tiny_recipe_file)
    recipe = replace(recipe, views=replace(recipe.views, count=100))
    assert open_store(Run(tmp_path, recipe), tiny_data, teachers).header.views == 4

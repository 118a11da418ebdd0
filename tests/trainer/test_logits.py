"""The logit store: its logits are those of the teachers, also after interruptions; damage and misuse are refused."""

import pytest
import torch
from msgspec.structs import replace

from jobs import job_of
from trainer.arms import own_arm
from trainer.data import load
from trainer.errors import OutOfMemory, RunError, StoreError
from trainer.lessons import open_store
from trainer.logits import Form, LogitStore, check, cost, fill_missing
from trainer.models import Teacher, create_teacher
from trainer.pipeline import fill_store
from trainer.progress import Silent
from trainer.recipe import DataRecipe
from trainer.run import Run
from trainer.views import ViewSpec, order, render


@pytest.fixture(scope="module")
def teachers(tiny_recipe, tiny_data):
    torch.manual_seed(0)
    created = {name: untrained(teacher, tiny_data) for name, teacher in tiny_recipe.teachers.items()}
    with torch.no_grad():
        for teacher in created.values():
            teacher.net.fc.weight.mul_(30)  # untrained nets give almost the same answer to every image
    return created


def untrained(teacher, data):
    created = create_teacher(teacher, len(data.labels), data.preprocessing)
    created.net.eval()
    return created


def opened(run, data, teachers):
    return open_store(run, data, own_arm(run.recipe), teachers)


@pytest.fixture
def filled(tiny_recipe, tiny_data, teachers, tmp_path) -> LogitStore:
    store = opened(Run(tmp_path, tiny_recipe), tiny_data, teachers)
    fill_missing(store, teachers, tiny_data.train, Silent())
    return store


def with_shards_of(store, size, folder):
    return LogitStore(folder, replace(store.header, shard=size), store.views)


def everything(store, view):
    """Return all answers for a view, float32 [N, teachers, classes]."""
    return store.read(view).at(torch.arange(store.header.samples))


def test_stored_logits_are_the_answers_of_the_teachers_to_each_pair_of_images(filled, tiny_data, teachers):
    header, split = filled.header, tiny_data.train
    for view in range(filled.views):
        stored = everything(filled, view)
        laid_out = order(header.seed, split.ids, view)
        for start in range(0, len(split), 2):
            pair = laid_out[start : start + 2]
            pixels = render(split.pixels()[pair], split.ids[pair], seed=header.seed, view=view, spec=header.spec).pixels
            with torch.no_grad():
                answers = [teacher.answer(pixels) for teacher in teachers.values()]
            torch.testing.assert_close(stored[start : start + 2], torch.stack(answers, 1), rtol=2**-10, atol=2e-3)
    assert (everything(filled, 0) != everything(filled, 1)).float().mean() > 0.9


def test_the_size_of_shards_and_of_batches_changes_nothing(filled, tiny_data, teachers, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.logits.fill.FILL_BATCH", 6)
    other = with_shards_of(filled, 10, tmp_path / "other")
    fill_missing(other, teachers, tiny_data.train, Silent())
    assert len(other.shards()) > 1
    for view in range(2):
        torch.testing.assert_close(everything(other, view), everything(filled, view), rtol=2**-9, atol=2e-3)


def test_a_restart_computes_only_what_is_missing(filled, tiny_data, teachers, tmp_path):
    store = with_shards_of(filled, 22, tmp_path / "units")
    fill_missing(store, teachers, tiny_data.train, Silent())
    whole = [everything(store, view) for view in range(2)]
    lost = [(0, 1), (1, 0)]
    kept = {unit: store.path(*unit).stat().st_mtime_ns for unit in store.units() if unit not in lost}
    for unit in lost:
        store.path(*unit).unlink()
    (store.folder / ".view-0000-shard-0001.safetensors.99").write_bytes(b"cut off while it was written")
    assert store.missing() == lost
    fill_missing(store, teachers, tiny_data.train, Silent())
    assert store.missing() == []
    assert {unit: store.path(*unit).stat().st_mtime_ns for unit in kept} == kept
    for view in range(2):
        assert torch.equal(everything(store, view), whole[view])


def test_check_accepts_a_good_store_and_refuses_a_bad_one(filled, tiny_data, teachers):
    good = check(filled, teachers, tiny_data.train)
    assert good.samples >= 48
    assert good.max_abs_error < 2e-2
    assert good.top1_agreement > 0.99
    assert good.within
    assert good.max_abs_error <= good.tolerance < 0.1
    for view in range(2):
        shuffled = everything(filled, view).roll(1, 0)
        filled.write(view, 0, {name: shuffled[:, k] for k, name in enumerate(filled.header.teachers)})
    bad = check(filled, teachers, tiny_data.train)
    assert bad.max_abs_error > 10 * good.max_abs_error
    assert not bad.within


def test_check_allows_larger_errors_for_units_in_bf16(filled, tiny_data, teachers):
    """A GPU answers in bf16, so its stored answers are less exact; the file of a unit tells its arithmetic."""
    largest = everything(filled, 0).abs().max()
    for arithmetic, within in (("fp32", False), ("bf16", True)):
        for view in range(2):
            shifted = everything(filled, view) + (0.02 * largest if arithmetic == "fp32" else 0)
            answers = {name: shifted[:, k] for k, name in enumerate(filled.header.teachers)}
            filled.write(view, 0, answers, arithmetic)
        found = check(filled, teachers, tiny_data.train)
        assert found.within == within
        assert 0.015 < found.max_abs_error / largest < 0.025


def test_teachers_answer_for_fewer_images_at_once_when_memory_is_short(
    filled, tiny_data, teachers, tmp_path, monkeypatch
):
    whole = [everything(filled, view) for view in range(2)]
    answer = Teacher.answer

    def in_little_room(self, pixels):
        if len(pixels) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer(self, pixels)

    monkeypatch.setattr(Teacher, "answer", in_little_room)
    store = LogitStore(tmp_path / "again", filled.header, filled.views)
    fill_missing(store, teachers, tiny_data.train, Silent())
    for view in range(2):
        torch.testing.assert_close(everything(store, view), whole[view], rtol=0, atol=1e-2)

    monkeypatch.setattr(Teacher, "answer", lambda self, pixels: in_little_room(self, pixels.repeat(11, 1, 1, 1)))
    with pytest.raises(OutOfMemory, match="cpu has no memory for the teachers' answers to two images; take smaller"):
        fill_missing(LogitStore(tmp_path / "none", filled.header, filled.views), teachers, tiny_data.train, Silent())


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("seed", 8),
        ("top_k", 2),
        ("dtype", "int8"),
        ("samples", 11),
        ("classes", 4),
        ("data", "another"),
        ("spec_hash", "another"),
        ("teachers", {"conv": "another", "involution": "weights"}),
    ],
)
def test_a_store_that_was_made_for_something_else_is_refused_by_name(filled, field, other):
    with pytest.raises(StoreError, match=rf"made with another {field} \(.*, not .*\); remove the folder"):
        LogitStore(filled.folder, replace(filled.header, **{field: other}), 2)


def test_a_store_for_other_views_data_or_teachers_is_refused(filled, tiny_recipe, tiny_data, teachers, clothes):
    run = Run(filled.folder.parent, tiny_recipe)
    spec = replace(tiny_recipe.views.spec, flip=0.4)
    with pytest.raises(StoreError, match="another spec"):
        opened(replace_recipe(run, views=replace(tiny_recipe.views, spec=spec)), tiny_data, teachers)
    with pytest.raises(StoreError, match="another data"):
        opened(run, load([clothes], DataRecipe(size=24)), teachers)
    retrained = dict(teachers)
    retrained["conv"] = untrained(tiny_recipe.teachers["conv"], tiny_data)
    with pytest.raises(StoreError, match="another teachers"):
        opened(run, tiny_data, retrained)
    turned = dict(teachers)
    turned["conv"] = teachers["conv"]._replace(preprocessing=replace(tiny_data.preprocessing, mean=(0.5, 0.5, 0.5)))
    with pytest.raises(StoreError, match="another teachers"):
        opened(run, tiny_data, turned)


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
def test_logits_beyond_float16_are_refused(filled, value):
    before = filled.path(0, 0).read_bytes()
    with pytest.raises(StoreError, match="'conv' answers with logits beyond float16"):
        filled.write(0, 0, {"conv": torch.full((4, 3), value)})
    assert filled.path(0, 0).read_bytes() == before


def test_precompute_asks_for_trained_teachers(tiny_recipe, tiny_data, tmp_path):
    run = Run(tmp_path, tiny_recipe)
    with pytest.raises(RunError, match="teacher 'conv' is not trained; `libkd-sdk teach conv --out"):
        fill_store(job_of(run, tiny_data), own_arm(run.recipe))


@pytest.mark.parametrize(("mode", "views"), [("replay", 4), ("exact", 4), ("clean", 1)])
def test_the_mode_determines_how_many_views_are_stored(mode, views, tiny_recipe, tiny_data, teachers, tmp_path):
    run = Run(tmp_path, replace(tiny_recipe, views=replace(tiny_recipe.views, mode=mode, count=100)))
    store = opened(run, tiny_data, teachers)
    assert store.views == views  # the student has four epochs and needs no more views
    assert (store.header.spec == ViewSpec()) == (mode == "clean")


def test_a_run_with_more_epochs_continues_the_same_store(tiny_recipe, tiny_data, teachers, tmp_path):
    exact = replace(tiny_recipe, views=replace(tiny_recipe.views, mode="exact"))
    longer = replace(exact.student, training=replace(exact.student.training, epochs=6))
    store = opened(Run(tmp_path, exact), tiny_data, teachers)
    fill_missing(store, teachers, tiny_data.train, Silent())
    first = [everything(store, view) for view in range(4)]
    more = opened(Run(tmp_path, replace(exact, student=longer)), tiny_data, teachers)
    assert [view for view, _ in more.missing()] == [4, 5]
    assert fill_missing(more, teachers, tiny_data.train, Silent()).units == 2
    assert all(torch.equal(everything(more, view), first[view]) for view in range(4))
    other = opened(Run(tmp_path / "anew", replace(exact, student=longer)), tiny_data, teachers)
    fill_missing(other, teachers, tiny_data.train, Silent())
    assert all(torch.equal(everything(other, view), everything(more, view)) for view in range(6))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_that_share_a_store_write_the_same_as_a_single_process(
    world, filled, tiny_data, teachers, tmp_path, monkeypatch
):
    alone = with_shards_of(filled, 16, tmp_path / "alone")
    fill_missing(alone, teachers, tiny_data.train, Silent())
    shared = with_shards_of(filled, 16, tmp_path / "shared")
    seen = []
    monkeypatch.setenv("WORLD_SIZE", str(world))
    for rank in range(world):
        monkeypatch.setenv("RANK", str(rank))
        with pytest.raises(
            KeyboardInterrupt
        ):  # each process is stopped after its second unit, as if all ran at the same time
            fill_missing(shared, teachers, tiny_data.train, StopAfter(2))
        seen.append({unit for unit in shared.units() if unit not in shared.missing()})
    assert len(seen[-1]) == 2 * world
    monkeypatch.delenv("RANK")
    fill_missing(shared, teachers, tiny_data.train, Silent())
    for view in range(2):
        assert torch.equal(everything(shared, view), everything(alone, view))


class StopAfter(Silent):
    """Stops the work in the unit after the given number of complete units, which have one batch each."""

    def __init__(self, units: int) -> None:
        self.left = units

    def step(self, steps: int = 1, note: str = "") -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("top_k", [1, 2])
def test_top_k_keeps_the_largest_probabilities_and_the_mass_of_the_others(top_k, filled, tiny_data, teachers, tmp_path):
    store = LogitStore(tmp_path / "top", replace(filled.header, top_k=top_k), 2)
    fill_missing(store, teachers, tiny_data.train, Silent())
    whole, top = everything(filled, 0).softmax(-1), everything(store, 0).softmax(-1)
    kept = whole.topk(top_k).indices
    torch.testing.assert_close(top.gather(-1, kept), whole.gather(-1, kept), rtol=0, atol=2e-3)
    rest = torch.ones_like(whole).scatter(-1, kept, 0).bool()
    torch.testing.assert_close((top * rest).sum(-1), (whole * rest).sum(-1), rtol=0, atol=2e-3)
    assert (top * rest).amax(-1).sub((top * rest).sum(-1) / (3 - top_k)).abs().max() < 1e-5  # the mass is spread evenly
    found = check(store, teachers, tiny_data.train)
    assert found.max_abs_error < 2e-2
    assert found.max_rest_error < 2e-2
    size = sum(path.stat().st_size for path in store.folder.glob("*.safetensors"))
    assert store.bytes < size < store.bytes + 1000 * 2  # the headers of the files


def test_a_damaged_index_is_refused(filled, tmp_path):
    store = LogitStore(tmp_path / "top", replace(filled.header, top_k=1), 1)
    rows = torch.randn(66, 3)
    store.write(0, 0, dict.fromkeys(store.header.teachers, rows))
    tensors, _ = store.unit(0, 0).read()
    store.unit(0, 0).write(tensors | {"conv.indices": torch.full((66, 1), 3).to(torch.uint16)})
    with pytest.raises(StoreError, match="classes that do not exist"):
        store.read(0)


def test_the_cost_of_a_store_follows_from_the_rate_of_the_teachers():
    # All logits of CIFAR-100; and 100 values and indices for each image of ImageNet-22k, in 90 views (TinyViT).
    assert Form(100, 0, "float16").bytes == 200
    assert Form(100, 0, "int8").bytes == 104
    assert Form(21841, 100, "float16").bytes == 404
    assert Form(21841, 100, "int8").bytes == 308
    assert Form(65_536, 100, "float16").bytes == 604
    estimated = cost(views=30, view_bytes=50_000 * 2 * 200, samples=50_000, epochs=100, images_per_second=5000)
    assert estimated.bytes == 600_000_000
    assert estimated.fill_seconds == pytest.approx(300)
    assert estimated.online_seconds == pytest.approx(1000)
    assert estimated.students == 1
    assert "600 MB, filled in about 5 min; teachers in the loop would take 17 min a student" in str(estimated)
    assert cost(views=90, view_bytes=1, samples=10, epochs=40, images_per_second=1).students == 3

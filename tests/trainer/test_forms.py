"""The stored forms of logits: 16 bits and 8 bits, all and top-k. Rounding is the only error, and it is bounded."""

import itertools

import pytest
import torch
from msgspec.structs import replace

from jobs import job_of
from trainer.arms import Arm, own_arm
from trainer.errors import RecipeError, StoreError
from trainer.lessons import open_store
from trainer.logits import Answers, Form, LogitStore, check, fill_missing
from trainer.logits.form import codes_of
from trainer.pipeline import load_teachers, run_pipeline
from trainer.progress import Silent
from trainer.recipe import read_recipe, write_recipe
from trainer.run import Run, Source, start_run

EVERY_FORM = list(itertools.product([0, 2], ["float16", "int8"]))


def stored_and_read(form, logits):
    parts = {name: part[:, None] for name, part in form.unpack(form.pack(logits)).items()}
    return Answers(form, parts).at(torch.arange(len(logits)))[:, 0]


@pytest.mark.parametrize("largest", [65504, 3000, 20, 1, 1e-2, 1e-4, 1e-6, 1e-9, 0])
@pytest.mark.parametrize("middle", [0, 1, -5])
def test_a_code_of_8_bits_is_within_half_a_step(largest, middle):
    torch.manual_seed(0)
    values = ((torch.rand(500, 7) * 2 - 1 + middle) * largest / (1 + abs(middle))).contiguous()
    codes, scale, offset = codes_of(values)
    assert codes.abs().max() <= 127
    again = offset.float()[:, None] + scale.float()[:, None] * codes
    assert ((again - values).abs() <= 0.5001 * scale.float()[:, None]).all()
    width = values.amax(-1) - values.amin(-1)
    assert (scale.float() <= 1.001 / 254 * (width + 2**-10 * offset.float().abs()) + 2**-23).all()


@pytest.mark.parametrize("classes", [40_000, 65_535, 65_536, 70_000])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_classes_keep_their_numbers_in_16_and_in_32_bits(classes, dtype):
    form = Form(classes, 3, dtype)
    logits = torch.full((4, classes), -20.0)
    for row, largest in enumerate([0, 32_767, 32_768, classes - 1]):
        logits[row, largest] = 9.0
    packed = form.pack(logits)
    assert packed["indices"].dtype == (torch.uint16 if classes <= 65_535 else torch.int32)
    assert sum(part.nbytes for part in packed.values()) == 4 * form.bytes
    assert stored_and_read(form, logits).argmax(-1).tolist() == [0, 32_767, 32_768, classes - 1]


@pytest.fixture
def teachers(copy, tiny_data):
    return load_teachers(job_of(copy, tiny_data))


def filled(store, teachers, data, folder, **header):
    other = LogitStore(folder, replace(store.header, **header), store.views)
    fill_missing(other, teachers, data.train, Silent())
    return other


@pytest.fixture
def store(copy, teachers, tiny_data) -> LogitStore:
    return open_store(copy, tiny_data, own_arm(copy.recipe), teachers)


@pytest.mark.parametrize("top_k", [0, 2])
def test_a_store_of_8_bits_is_within_its_steps_of_one_of_16_bits(top_k, store, teachers, tiny_data, tmp_path):
    wide = filled(store, teachers, tiny_data, tmp_path / "wide", top_k=top_k)
    narrow = filled(store, teachers, tiny_data, tmp_path / "narrow", top_k=top_k, dtype="int8")
    everywhere = torch.arange(store.header.samples)
    for view in range(2):
        steps = narrow.read_unit(view, 0)[0]["scale"].float()[..., None]
        apart = (narrow.read(view).at(everywhere) - wide.read(view).at(everywhere)).abs()
        assert (apart <= 0.51 * steps + 2**-10).all()
    found, before = check(narrow, teachers, tiny_data.train), check(wide, teachers, tiny_data.train)
    assert found.within
    assert found.tolerance > before.tolerance
    if not top_k:  # two logits are exact: they are the smallest and the largest
        assert found.max_abs_error > 2 * before.max_abs_error


def in_row_7(change):
    def changed(tensor):
        tensor[7] = change(tensor[7])
        return tensor

    return changed


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("scale", lambda scale: scale * 1.1),
        ("scale", lambda scale: scale * 100),
        ("scale", lambda scale: scale * 0),
        ("offset", lambda offset: offset + 0.25),
        ("LOGITS", lambda codes: codes.roll(1)),
        ("LOGITS", lambda codes: -codes),
    ],
)
@pytest.mark.parametrize("top_k", [0, 2])
def test_check_finds_a_single_wrong_answer_of_8_bits(top_k, part, change, store, teachers, tiny_data, tmp_path):
    narrow = filled(store, teachers, tiny_data, tmp_path / "narrow", top_k=top_k, dtype="int8")
    name = f"conv.{narrow.header.form.logits if part == 'LOGITS' else part}"
    for unit in narrow.units():
        tensors, facts = narrow.unit(*unit).read()
        narrow.unit(*unit).write(tensors | {name: in_row_7(change)(tensors[name])}, **facts)
    assert not check(narrow, teachers, tiny_data.train).within


def test_a_store_with_indices_of_32_bits_is_used_as_it_is(store, teachers, tiny_data, tmp_path):
    """Such stores were written before indices had 16 bits; new units stand beside theirs."""
    top = filled(store, teachers, tiny_data, tmp_path / "top", top_k=2, shard=20)
    before = [top.read(view).at(torch.arange(top.header.samples)) for view in range(2)]
    for unit in list(top.units())[::2]:
        tensors, facts = top.unit(*unit).read()
        old = {name: part.to(torch.int32) for name, part in tensors.items() if name.endswith("indices")}
        top.unit(*unit).write(tensors | old, **facts)
    assert all(torch.equal(top.read(view).at(torch.arange(top.header.samples)), before[view]) for view in range(2))
    assert check(top, teachers, tiny_data.train).within


@pytest.mark.parametrize(("top_k", "dtype"), EVERY_FORM)
def test_a_unit_of_another_form_is_refused(top_k, dtype, store, tmp_path):
    """A unit is refused even if it names this store, so that no number is ever taken for another kind of number."""
    own = LogitStore(tmp_path / "own", replace(store.header, top_k=top_k, dtype=dtype), 1)
    for number, (other_k, other) in enumerate(EVERY_FORM):
        if (other_k, other) == (top_k, dtype):
            continue
        foreign = LogitStore(tmp_path / str(number), replace(store.header, top_k=other_k, dtype=other), 1)
        foreign.write(0, 0, {name: torch.randn(66, 3) for name in store.header.teachers})
        own.unit(0, 0).write(foreign.unit(0, 0).read()[0])
        with pytest.raises(StoreError, match=r"view-0000-shard-0000\.safetensors: missing or damaged"):
            own.read(0)


def with_bits(recipe, bits):
    return replace(recipe, views=replace(recipe.views, bits=bits))


def test_the_bits_of_a_recipe_decide_the_form_and_count_only_if_they_are_used(tiny_recipe, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(write_recipe(with_bits(tiny_recipe, 8)))
    assert read_recipe(path).views.bits == 8
    assert with_bits(tiny_recipe, 16).hash() == "318027c0a059c086"
    assert with_bits(tiny_recipe, 8).hash() != "318027c0a059c086"
    path.write_text(path.read_text().replace("bits = 8", "bits = 4"))
    with pytest.raises(RecipeError, match=r"Invalid enum value 4 - at views\.bits"):
        read_recipe(path)


def test_a_run_of_8_bits_learns_from_such_a_store(copy, tiny_recipe, tiny_data, tmp_path):
    run = start_run(tmp_path / "narrow", with_bits(tiny_recipe, 8), tiny_data, Source(("clothes",)))
    for name in tiny_recipe.teachers:
        stage = f"teachers/{name}"
        run.keep(stage, load_teachers(job_of(copy, tiny_data))[name].net, copy.teacher_record(name))
    run_pipeline(job_of(run, tiny_data))
    teachers = load_teachers(job_of(run, tiny_data))
    own = open_store(run, tiny_data, own_arm(run.recipe), teachers)
    assert own.header.dtype == "int8"
    assert not own.missing()

    beside = Arm("arms/wide", tuple(run.recipe.teachers), with_bits(run.recipe, 16))
    wide = open_store(run, tiny_data, beside, teachers)
    assert wide.folder != own.folder
    assert wide.header.dtype == "float16"


def test_arms_that_store_16_bits_have_the_folders_that_they_always_had(copy, tiny_data, teachers):
    views = replace(copy.recipe.views, top_k=1)
    arm = Arm("arms/top", tuple(copy.recipe.teachers), replace(copy.recipe, views=views))
    assert open_store(Run(copy.folder, copy.recipe), tiny_data, arm, teachers).folder.name == "logits-4b4dfd24"

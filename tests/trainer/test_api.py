"""The training API: what `distill`, `compare` and `load_student` take, what they return, and what they refuse."""

import subprocess
import sys
import time

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

import trainer
from sdk.errors import UsageError
from trainer.arms import Change
from trainer.comparison import read_result
from trainer.errors import DataError, RecipeError, RunError
from trainer.start import RunRequest, prepare, source_of
from trainer.units import Deadline


class Told(trainer.Silent):
    def __init__(self):
        self.stages, self.lines = [], []

    def begin(self, stage, steps):
        self.stages.append(stage)

    def tell(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def distilled(clothes, tiny_recipe_file, tmp_path_factory):
    told = Told()
    out = tmp_path_factory.mktemp("api") / "run"
    return trainer.distill(clothes, out, recipe=tiny_recipe_file, device="cpu", progress=told), told


def weights(run, stage="student"):
    return load_file(run.folder / stage / "model.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_distill_does_every_stage_and_reports_it(distilled):
    run, told = distilled
    assert list(run.net_records()) == ["teachers/conv", "teachers/involution", "student"]
    for stage in ("training teachers/conv", "training teachers/involution", "storing logits", "training student"):
        assert stage in told.stages
    student, labels, preprocessing = trainer.load_student(run)
    again, *rest = trainer.load_student(str(run.folder))
    assert rest == [labels, preprocessing]
    assert labels == ("Bag", "Sneaker", "Trouser")
    assert equal(student.state_dict(), again.state_dict())


def test_distill_is_the_pipeline_on_the_same_data(distilled, finished):
    assert equal(weights(distilled[0]), weights(finished))


def test_distill_continues_with_what_the_run_remembers(distilled):
    run, _ = distilled
    told = Told()
    again = trainer.distill(None, run.folder, progress=told)
    assert again == run
    assert not any(stage.startswith(("training", "storing")) for stage in told.stages)


def test_a_recipe_may_be_an_object_and_the_seed_another(tiny_recipe, clothes, tmp_path):
    short = replace(
        tiny_recipe,
        views=replace(tiny_recipe.views, count=1),
        teachers={
            "conv": replace(tiny_recipe.teachers["conv"], training=replace(tiny_recipe.student.training, epochs=1))
        },
        student=replace(tiny_recipe.student, training=replace(tiny_recipe.student.training, epochs=1)),
    )
    run = trainer.distill([clothes], str(tmp_path / "run"), recipe=short, seed=11)
    assert run.recipe.seed == 11
    assert run.recipe.student == short.student
    with pytest.raises(RunError, match=r"another recipe \(it differs in seed\)"):
        trainer.distill(clothes, run.folder, recipe=short, seed=12)


def test_a_new_run_is_cut_to_its_time_and_continues_as_it_was_cut(tiny_recipe, clothes, tmp_path):
    student = replace(tiny_recipe.student, training=replace(tiny_recipe.student.training, epochs=100_000))
    told = Told()
    request = RunRequest(
        out=tmp_path / "run", source=source_of(clothes), recipe=replace(tiny_recipe, student=student), within="30s"
    )
    started = time.perf_counter()
    cut = prepare(request, told).run.recipe
    assert time.perf_counter() - started < 30
    assert 1 <= cut.student.training.epochs < 100_000
    assert any(line.startswith("cut to the time, in epochs and views: ") for line in told.lines)
    assert prepare(request, told).run.recipe == cut
    assert "continues with the epochs and views that it started with" in told.lines[-1]


def test_a_time_that_has_passed_is_too_little(clothes, tiny_recipe_file, tmp_path):
    passed = Deadline(time.perf_counter() - 1)
    assert passed.seconds_left() < 0 < Deadline.after("1s").seconds_left() <= 1
    with pytest.raises(RecipeError, match=r"too little time: 0\.0 s are left"):
        trainer.distill(clothes, tmp_path / "run", recipe=tiny_recipe_file, within=passed)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"data": None}, UsageError, "no run there yet; name the images by --data"),
        ({"data": []}, UsageError, "no run there yet"),
        ({"data": None, "unlabelled": "more"}, UsageError, "--unlabelled goes with --data"),
        ({"within": "soon"}, UsageError, "--within: 'soon' is not a time; write it as 90s, 30m or 1h30m"),
        ({"recipe": "none.toml"}, RecipeError, "none.toml: no such recipe"),
        ({"data": "nowhere"}, DataError, "nowhere"),
        ({"device": "abacus"}, RecipeError, "no device 'abacus' here"),
    ],
)
def test_what_can_not_be_done_is_refused_and_leaves_nothing(arguments, error, message, clothes, tmp_path):
    with pytest.raises(error, match=message):
        trainer.distill(**{"data": clothes, "out": tmp_path / "run", **arguments})
    assert not (tmp_path / "run").exists()


def test_a_recipe_can_be_refused_before_anything_is_written(clothes, tiny_recipe_file, tmp_path):
    def refuse(recipe):
        raise UsageError(f"{len(recipe.teachers)} teachers")

    request = RunRequest(out=tmp_path / "run", source=source_of(clothes), recipe=tiny_recipe_file)
    with pytest.raises(UsageError, match="2 teachers"):
        prepare(request, trainer.Silent(), check=refuse)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def compared(clothes, tiny_recipe_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared")
    arguments = {"recipe": tiny_recipe_file, "seeds": [5], "arms": {"one view": Change(views={"count": 1})}}
    return out, arguments, trainer.compare(clothes, out, **arguments)


@pytest.mark.slow
def test_compare_returns_what_it_writes(compared, clothes, tiny_recipe_file):
    out, arguments, result = compared
    assert isinstance(result, trainer.ComparisonResult)
    assert result == read_result(out / "results.json")
    assert (result.data, result.recipe, result.seeds) == ((clothes.name,), tiny_recipe_file.stem, (5,))
    assert list(result.arms) == ["without teachers", "conv alone", "involution alone", "all teachers", "one view"]
    assert result.images == {"train": 66, "validation": 6, "test": 24}
    assert all(row.deviation is None for row in result.arms.values())
    assert trainer.compare(clothes, out, **arguments) == result


@pytest.mark.slow
def test_compare_trains_runs_that_load_student_knows(compared):
    out, _, result = compared
    student, labels, _ = trainer.load_student(out / "seed-5", "arms/conv-alone")
    assert len(labels) == 3
    assert sum(parameter.numel() for parameter in student.parameters()) == result.arms["conv alone"].parameters


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"data": None}, UsageError, "name the images by --data"),
        ({"seeds": (1, 1)}, UsageError, "--seeds names a seed twice"),
        ({"seeds": ()}, UsageError, "--seeds names no seed"),
        ({"labels": 2.0}, UsageError, "--labels: labels is above 0"),
        ({"arms": "none.toml"}, RecipeError, "none.toml: no arms"),
        (
            {"arms": {"odd": Change(student={"stem": "patch", "patch": 5})}},
            RecipeError,
            "do not divide into patches of 5",
        ),
    ],
)
def test_a_comparison_that_can_not_be_made_leaves_nothing(
    arguments, error, message, clothes, tiny_recipe_file, tmp_path
):
    with pytest.raises(error, match=message):
        trainer.compare(**{"data": clothes, "out": tmp_path / "cmp", "recipe": tiny_recipe_file, **arguments})
    assert not (tmp_path / "cmp").exists()


def test_public_names_are_there_and_the_errors_load_no_torch():
    assert all(getattr(trainer, name) for name in trainer.__all__)
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        trainer.distil  # noqa: B018
    code = "import sys, trainer, trainer.errors, trainer.units; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"

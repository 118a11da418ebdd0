"""In a comparison, arms differ in what they say and in nothing else. Students also learn from unlabelled images."""

import statistics

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

from jobs import job_of
from trainer.arms import OWN_ARM, PLAIN_ARM, Change, list_arms, own_arm, plain_arm, read_changes
from trainer.comparison import compare_arms, paired
from trainer.data import UNLABELLED, load
from trainer.errors import Diverged, RecipeError, RunError
from trainer.lessons import open_store
from trainer.pipeline import run_pipeline, train_arm
from trainer.recipe import DataRecipe
from trainer.run import Run, Source, load_student, start_run
from trainer.train import train_teacher
from trainer.views import ViewSpec

CPU = torch.device("cpu")
CHANGES = """
["one view".views]
count = 1

["online".views]
mode = "online"

["deeper: 3".student]
depth = 3
loss = "dkd"
loss_args = { beta = 2.0 }

["more on top".views.extra]
erase = 1.0

[stems.student]
tokens = "stems"
"""


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    path = tmp_path_factory.mktemp("arms") / "arms.toml"
    path.write_bytes(CHANGES.encode("utf-8-sig"))
    return read_changes(path)


@pytest.fixture(scope="module")
def compared(tiny_recipe, tiny_data, changes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    arguments = (job_of(Run(folder, tiny_recipe), tiny_data), Source(("clothes",)), [3, 4], changes)
    return folder, arguments, compare_arms(*arguments)


def weights(folder, seed, stage):
    return load_file(folder / f"seed-{seed}" / stage / "model.safetensors")


@pytest.mark.slow
def test_every_arm_is_trained_with_every_seed(compared):
    _, _, results = compared
    assert list(results.arms) == [
        PLAIN_ARM, "conv alone", "involution alone", OWN_ARM, "one view", "online", "deeper: 3", "more on top", "stems"
    ]  # fmt: skip
    assert list(results.teachers) == ["conv", "involution"]
    for row in (*results.arms.values(), *results.teachers.values()):
        assert len(row.top1) == len(row.validation) == 2
        assert row.mean == pytest.approx(statistics.fmean(row.top1))
        assert row.deviation == pytest.approx(statistics.stdev(row.top1))
    plain, taught = results.arms[PLAIN_ARM].top1, results.arms[OWN_ARM].top1
    (pair,) = [it for it in results.pairs if (it.arm, it.other) == (OWN_ARM, PLAIN_ARM)]
    assert pair.difference == pytest.approx(statistics.fmean(taught) - statistics.fmean(plain))
    assert len(results.pairs) == 9 * 8 / 2


def test_a_difference_is_paired_and_has_students_interval():
    """The interval is that of the formula with a published quantile: t is 2.776 for 4 degrees of freedom and 97.5 %."""
    one, other = [0.80, 0.70, 0.75, 0.60, 0.90], [0.82, 0.71, 0.78, 0.61, 0.93]
    (pair,) = paired({"one": one, "other": other})
    differences = [0.02, 0.01, 0.03, 0.01, 0.03]
    reach = 2.776 * statistics.stdev(differences) / 5**0.5
    assert (pair.arm, pair.other) == ("other", "one")
    assert pair.difference == pytest.approx(0.02)
    assert pair.interval == pytest.approx([0.02 - reach, 0.02 + reach], rel=1e-3)  # far narrower than unpaired
    (same,) = paired({"one": one, "again": one})
    assert same.interval == (0, 0)
    (single,) = paired({"one": [0.5], "other": [0.6]})
    assert single.interval is None


@pytest.mark.slow
def test_a_second_comparison_trains_nothing_again(compared):
    folder, arguments, results = compared
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert compare_arms(*arguments) == results
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_an_arm_is_the_run_with_its_change(compared, tiny_recipe, tiny_data, tmp_path):
    """It is the same student as that of a run with this recipe; the other arms have no influence on it."""
    folder, _, _ = compared
    views = replace(tiny_recipe.views, count=1)
    run = start_run(tmp_path / "run", replace(tiny_recipe, seed=3, views=views), tiny_data, Source(("clothes",)))
    run_pipeline(job_of(run, tiny_data))
    own, arm = load_file(run.folder / "student/model.safetensors"), weights(folder, 3, "arms/one-view")
    assert all(torch.equal(own[name], arm[name]) for name in own)


@pytest.mark.slow
def test_arms_differ_from_each_other_and_keep_their_shape(compared):
    folder, _, _ = compared
    stages = ("arms/plain", "arms/conv-alone", "arms/involution-alone", "student", "arms/online", "arms/more-on-top")
    heads = [weights(folder, 3, stage)["heads.1.weight"] for stage in stages]
    for index, head in enumerate(heads):
        assert all(not torch.equal(head, other) for other in heads[:index])
    student, _, _ = load_student(folder / "seed-3", "arms/deeper--3")
    assert len(student.trunk.blocks) == 3
    assert not (folder / "seed-3/arms/plain/checkpoint.safetensors").exists()


@pytest.mark.slow
def test_online_teachers_answer_as_the_store_does(tiny_recipe, tiny_data, tmp_path):
    """`exact` and `online` show the same views and get the same answers, except for the rounding to float16."""
    views = replace(tiny_recipe.views, mode="exact")
    run = start_run(tmp_path / "run", replace(tiny_recipe, views=views), tiny_data, Source(("clothes",)))
    run_pipeline(job_of(run, tiny_data))
    online = list_arms(run.recipe, tiny_data, {"online": Change(views={"mode": "online"})})["online"]
    train_arm(job_of(run, tiny_data), online)
    stored, asked = (
        torch.cat([tensor.flatten() for tensor in load_file(run.folder / stage / "model.safetensors").values()])
        for stage in ("student", "arms/online")
    )
    assert 0 < (stored - asked).norm() < 0.02 * stored.norm()


@pytest.fixture(scope="module")
def partly_labelled(clothes):
    return load([clothes], DataRecipe(labels=0.5))


@pytest.mark.slow
def test_only_students_learn_from_images_without_labels(tiny_recipe, partly_labelled, tmp_path):
    data = partly_labelled
    assert len(data.unlabelled) == len(data.train)
    assert (data.unlabelled.labels == UNLABELLED).all()
    run = start_run(tmp_path / "run", tiny_recipe, data, Source(("clothes",)))
    run_pipeline(job_of(run, data))
    chosen = list_arms(run.recipe, data, {})
    without = chosen[f"{OWN_ARM}, labelled images only"]
    train_arm(job_of(run, data), without)
    train_arm(job_of(run, data), plain_arm(run.recipe))
    teachers = {name: train_teacher(job_of(run, data), name) for name in run.recipe.teachers}
    more, fewer = open_store(run, data, own_arm(run.recipe), teachers), open_store(run, data, without, teachers)
    assert more.header.samples == 2 * fewer.header.samples == len(data.train) + len(data.unlabelled)
    assert more.folder != fewer.folder
    assert not more.missing()
    assert not fewer.missing()
    one, other = (load_file(run.folder / stage / "model.safetensors") for stage in ("student", without.stage))
    assert not torch.equal(one["heads.1.weight"], other["heads.1.weight"])


def test_the_labels_of_unlabelled_images_are_never_used(tiny_recipe, partly_labelled, tmp_path):
    """The unlabelled part of the student's split has no labels, and the student without teachers does not see it."""
    data = partly_labelled
    assert set(data.unlabelled.names).isdisjoint(data.train.names)
    run = Run(tmp_path, tiny_recipe)
    assert own_arm(run.recipe).split(data).labels[len(data.train) :].unique().tolist() == [UNLABELLED]
    assert plain_arm(run.recipe).split(data) is data.train


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[x.views]\ncuont = 1", "unknown field `cuont`"),
        ("[x.student]\nloss = 'dkd'\nloss_args = { gama = 1.0 }", "has no argument 'gama'"),
        ("[x]\nteachers = ['mixer']", "no teachers mixer"),
        ("[x]\nrecipe = 'large'", "unknown field `recipe`"),
        ("[x", "no arms"),
    ],
)
def test_a_wrong_arm_is_named_before_anything_is_trained(text, message, tiny_recipe, tiny_data, tmp_path):
    path = tmp_path / "arms.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        list_arms(tiny_recipe, tiny_data, read_changes(path))
    with pytest.raises(RecipeError, match="no arms"):
        read_changes(tmp_path / "none.toml")


def test_an_arm_that_cannot_be_created_leaves_nothing(tiny_recipe, tiny_data, tmp_path):
    changes = {"odd": Change(student={"stem": "patch", "patch": 5})}
    job = job_of(Run(tmp_path / "comparison", tiny_recipe), tiny_data)
    with pytest.raises(RecipeError, match=r"do not divide into patches of 5"):
        compare_arms(job, Source(("clothes",)), [3], changes)
    assert not (tmp_path / "comparison").exists()


def test_mode_clean_changes_only_arms_with_teachers(tiny_recipe, tmp_path):
    run = Run(tmp_path, replace(tiny_recipe, views=replace(tiny_recipe.views, mode="clean")))
    assert own_arm(run.recipe).spec == ViewSpec()
    assert plain_arm(run.recipe).spec == tiny_recipe.views.spec


@pytest.mark.parametrize("names", [("a b", "a-b"), ("plain",)])
def test_two_arms_with_the_same_folder_are_refused(names, tiny_recipe, tiny_data, tmp_path):
    with pytest.raises(RecipeError, match=r"another one is kept in arms/(a-b|plain) too"):
        list_arms(tiny_recipe, tiny_data, dict.fromkeys(names, Change()))


@pytest.mark.slow
def test_an_arm_whose_settings_changed_is_not_taken_for_the_old_one(compared, changes):
    _, arguments, _ = compared
    other = {**changes, "one view": Change(views={"count": 2, "mode": "exact"})}
    with pytest.raises(RunError, match=r"arms/one-view: an arm of this name was trained with other settings"):
        compare_arms(*arguments[:3], other)


def test_a_loss_that_doubles_stops_the_run(tiny_recipe, tiny_data, tmp_path, monkeypatch):
    """The learning rate works during one epoch of warm-up, but not after it. The checkpoint before it stays."""
    monkeypatch.setattr("trainer.loop.LOST_AT_MOST", 0)
    training = replace(tiny_recipe.student.training, epochs=6, lr=300.0, warmup=3.0, clip=1e9)
    recipe = replace(tiny_recipe, student=replace(tiny_recipe.student, training=training, drop_path=0.0))
    run = start_run(tmp_path / "run", recipe, tiny_data, Source(("clothes",)))
    with pytest.raises(Diverged, match=r"arms/plain: the loss (is|rose to) .* in epoch [2-6]; what was kept before"):
        train_arm(job_of(run, tiny_data), plain_arm(run.recipe))
    assert (run.folder / "arms/plain/checkpoint.safetensors").exists()
    assert not run.has("arms/plain")

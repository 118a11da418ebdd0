"""A recipe is cut to the available time by the same share everywhere; too little time is refused."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from jobs import CPU, Told, job_of
from trainer import budget
from trainer.arms import Change, arms_of, own_arm, plain_arm
from trainer.budget import as_cut, cut
from trainer.counts import Counts
from trainer.data import load
from trainer.errors import RecipeError
from trainer.pace import LEAST_STEPS, Pace, Paces, _Enough, _Stopwatch
from trainer.recipe import (
    DataRecipe,
    Recipe,
    StudentRecipe,
    TeacherRecipe,
    Training,
    ViewsRecipe,
    read_recipe,
    write_recipe,
)
from trainer.run import Run
from trainer.units import seconds_of

RECIPE = Recipe(
    views=ViewsRecipe(count=30),
    teachers={
        "conv": TeacherRecipe(model="resnet18_small", training=Training(epochs=40)),
        "involution": TeacherRecipe(model="rednet26_small_k3", training=Training(epochs=60)),
    },
    student=StudentRecipe(training=Training(epochs=100)),
)


class Steady:
    """Known paces: 1 s for an epoch of a teacher, 2 s for one of a student, 0.5 s for a view, 3 s once for each net."""

    def __init__(self, job, seconds):
        self.seconds_to_answer = 0.5 / len(job.data.train)
        self.counts, self.classes = Counts.of(job.data), len(job.data.labels)

    def at_once(self, trainings):
        return 1

    def teacher(self, name, slots):
        return Pace(3.0, 1.0)

    def student(self, arm, slots):
        return Pace(3.0, 2.0)


@pytest.fixture
def steady(monkeypatch):
    monkeypatch.setattr(budget, "Paces", Steady)


def fitted(recipe, data, seconds, progress, **arms):
    return cut(job_of(Run(Path(), recipe), data, progress), seconds, **arms)


def counts(recipe):
    epochs = [it.training.epochs for it in recipe.teachers.values()]
    return [*epochs, recipe.views.count, recipe.student.training.epochs]


def seconds(recipe, students=1):
    conv, involution, views, student = counts(recipe)
    return conv + 3 + involution + 3 + 0.5 * views + students * (2 * student + 3)


def test_a_recipe_that_fits_stays_whole(steady, tiny_data):
    progress = Told()
    assert fitted(RECIPE, tiny_data, 400.0, progress) == RECIPE
    assert progress.lines[-1] == "all of the recipe fits: about 5.4 min of 6.7 min"


@pytest.mark.parametrize("budget_s", [30.0, 60.0, 100.0, 200.0, 320.0])
def test_every_stage_keeps_the_same_share_and_the_time_is_used(budget_s, steady, tiny_data):
    progress = Told()
    fitting = fitted(RECIPE, tiny_data, budget_s, progress)
    assert budget_s - 2.1 < seconds(fitting) <= budget_s  # an epoch more would be too long
    shares = [kept / whole for kept, whole in zip(counts(fitting), counts(RECIPE), strict=True)]
    assert max(shares) - min(shares) < 1 / 30 + 1 / 40  # a view and an epoch: nothing is cut finer
    assert replace(fitting, teachers=RECIPE.teachers, views=RECIPE.views, student=RECIPE.student) == RECIPE
    assert progress.lines[-1].startswith(
        f"cut to the time, in epochs and views: teacher conv {counts(fitting)[0]} of 40, "
    )


def test_a_comparison_shares_the_time_among_its_seeds_and_arms(steady, tiny_data):
    arms = arms_of(tiny_data, {"one view": Change(views={"count": 1})})
    fitting = fitted(RECIPE, tiny_data, 900.0, Told(), arms=arms, runs=2)
    assert 440 < seconds(fitting, students=5) <= 450  # none, each, both, and one view of the same store


def test_teachers_without_epochs_are_not_cut(steady, tiny_data):
    ready = replace(RECIPE.teachers["conv"], pretrained=True, training=Training(epochs=0))
    fitting = fitted(replace(RECIPE, teachers={**RECIPE.teachers, "conv": ready}), tiny_data, 60.0, Told())
    assert counts(fitting)[0] == 0
    assert counts(fitting)[1] > 0


def test_too_little_time_for_one_epoch_of_each_stage_is_refused(steady, tiny_data):
    with pytest.raises(
        RecipeError, match=r"10.0 s are left after loading and timing, and one epoch of every stage takes 14 s;"
    ):
        fitted(RECIPE, tiny_data, 10.0, Told())


def test_a_run_that_was_cut_is_recognised(steady, tiny_data):
    fitting = fitted(RECIPE, tiny_data, 100.0, Told())
    assert as_cut(RECIPE, fitting) == fitting
    other = replace(RECIPE, teachers={"conv": RECIPE.teachers["conv"]})
    assert as_cut(other, fitting) == other


class Seen(Paces):
    """Paces that count the timed steps."""

    def _timed(self, what, work, training=None, slots=1):
        counted = []

        def watched(folder, progress):
            step = progress.step
            progress.step = lambda steps=1, note="": (counted.append(steps), step(steps, note))
            work(folder, progress)

        self.steps = counted
        self.folders = set(Path.cwd().iterdir())
        return super()._timed(what, watched, training, slots)


def test_paces_come_from_a_few_real_steps(tiny_recipe, tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Run(Path(), tiny_recipe)
    paces = Seen(job_of(run, tiny_data), seconds=0.0)
    clean = replace(tiny_recipe, views=replace(tiny_recipe.views, mode="clean"))
    exact = replace(tiny_recipe, views=replace(tiny_recipe.views, mode="exact"))
    online = replace(tiny_recipe, views=replace(tiny_recipe.views, mode="online"))
    for pace in (
        lambda: paces.teacher("conv"),
        lambda: paces.teacher("involution"),
        lambda: paces.student(own_arm(run.recipe)),
        lambda: paces.student(plain_arm(run.recipe)),
        *(lambda recipe=recipe: paces.student(own_arm(recipe)) for recipe in (clean, exact, online)),
    ):
        found = pace()
        assert sum(paces.steps) == 1 + LEAST_STEPS
        assert 0 <= found.once < 60
        assert 0 < found.epoch < 60
        assert pace() == found  # timed once
    assert 0 < paces.seconds_to_answer < 1
    assert list(tmp_path.iterdir()) == []


def test_no_worker_is_started_to_time_the_teachers_answers(tiny_recipe, clothes, tmp_path, monkeypatch):
    """It would take longer than all the answers, and they would seem to be slow."""
    data = load([clothes], DataRecipe(memory_gb=0))
    monkeypatch.setattr("trainer.data.images.decoded", lambda *_, **__: pytest.fail("a worker was started"))
    assert data.train.nbytes == 0
    assert Paces(job_of(Run(tmp_path, tiny_recipe), data), seconds=0.01).seconds_to_answer > 0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


def test_the_time_before_the_first_step_is_separated_from_the_steps(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("trainer.pace.time", clock)
    progress = _Stopwatch(CPU, seconds=5.0)
    progress.step(0)  # of the epochs that were done before
    clock.now += 12  # data, a compiler, the first step
    progress.step()
    clock.now += 4
    progress.step(2)
    clock.now += 2
    with pytest.raises(_Enough):
        progress.step()
    assert progress.measured() == (10.0, 2.0)


def test_a_stage_with_a_single_step_is_timed_as_a_whole(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("trainer.pace.time", clock)
    progress = _Stopwatch(CPU, seconds=5.0)
    clock.now += 12
    progress.step(4)  # as a store does that is filled at once
    assert progress.measured() == (0.0, 3.0)


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1.5 h", 5400), ("2min", 120), ("1h5s", 3605)]
)
def test_a_time_is_read_as_people_write_it(text, expected):
    assert seconds_of(text) == expected


@pytest.mark.parametrize("text", ["", "30", "m", "0s", "-5m", "5m2h", "soon", "1..5h", "nan s"])
def test_other_text_is_not_a_time(text):
    with pytest.raises(ValueError, match="is not a time; write it as 90s, 30m or 1h30m"):
        seconds_of(text)


def test_a_recipe_that_was_cut_is_written_as_it_was_cut(steady, tiny_data, tmp_path):
    fitting = fitted(RECIPE, tiny_data, 100.0, Told())
    (tmp_path / "recipe.toml").write_text(write_recipe(fitting))
    assert read_recipe(tmp_path / "recipe.toml") == fitting

"""Settings on the command line: they change the recipe, are checked like it, and are written into the run."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from shell import LIBKD
from trainer.errors import RecipeError
from trainer.recipe import StudentRecipe, read_recipe, shipped_recipes, write_recipe
from trainer.run import open_run
from trainer.settings import Settings


@pytest.fixture(scope="module")
def recipe(tiny_recipe_file):
    return read_recipe(tiny_recipe_file)


def test_short_names_change_every_net_that_is_trained(recipe):
    changed = Settings(epochs=7, batch=12, lr=0.002, size=20).applied(recipe)
    for training in (changed.student.training, *(teacher.training for teacher in changed.teachers.values())):
        assert (training.epochs, training.batch, training.lr) == (7, 12, 0.002)
    assert changed.data.size == 20
    assert Settings().applied(recipe) is recipe


def test_a_teacher_that_is_used_as_it_is_stays_so(recipe):
    ready = Settings(keys=["teachers.conv.weights=a.safetensors", "teachers.conv.training.epochs=0"]).applied(recipe)
    again = Settings(epochs=7).applied(ready)
    assert again.teachers["conv"].training.epochs == 0
    assert again.teachers["involution"].training.epochs == 7


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("student.stem=patch", lambda recipe: recipe.student.stem == "patch"),
        ("student.stem = 'patch'", lambda recipe: recipe.student.stem == "patch"),
        ("student.training.lr=3e-4", lambda recipe: recipe.student.training.lr == 3e-4),
        ("views.spec.scale=[0.9, 1]", lambda recipe: recipe.views.spec.scale == (0.9, 1.0)),
        ("student.standardize=true", lambda recipe: recipe.student.standardize is True),
        ("teachers.conv.args.channels=[8]", lambda recipe: recipe.teachers["conv"].args["channels"] == [8]),
        ("teachers.*.weight=2", lambda recipe: {it.weight for it in recipe.teachers.values()} == {2.0}),
        ("teachers.third.model=resnet18", lambda recipe: list(recipe.teachers)[-1] == "third"),
    ],
)
def test_any_key_can_be_set(recipe, key, found):
    assert found(Settings(keys=[key]).applied(recipe))


def test_a_published_student_takes_the_place_of_the_shape(recipe):
    keys = ["student.width=96", "student.model=vit_tiny_patch16_224", "student.weights=vit.safetensors"]
    tuned = ["student.training.lr_scale=0.1", "student.training.frozen=1", "student.mean=[0.5, 0.5, 0.5]"]
    student = Settings(epochs=3, keys=[*keys, *tuned]).applied(recipe).student
    assert (student.model, student.weights, student.mean) == ("vit_tiny_patch16_224", "vit.safetensors", (0.5,) * 3)
    assert (student.training.lr_scale, student.training.frozen, student.training.epochs) == (0.1, 1, 3)
    assert student.width == StudentRecipe().width
    with pytest.raises(RecipeError, match="model decides the shape; leave patch out, or model"):
        Settings(keys=[*keys, "student.patch=8"]).applied(recipe)
    with pytest.raises(RecipeError, match="lr_scale and frozen are for published weights"):
        Settings(keys=tuned[:1]).applied(recipe)


def test_a_key_without_a_value_is_left_out(recipe):
    photos = read_recipe("photos")
    keys = ["student.model=", "student.pretrained=", "student.training.lr_scale=", "student.training.frozen="]
    assert Settings(keys=[*keys, "student.width=48"]).applied(photos).student.title == "vit-conv4-48x9"
    assert list(Settings(keys=["teachers.conv="]).applied(recipe).teachers) == ["involution"]
    for key, line in (
        ("teachers.cnv=", "there is no such teacher; the recipe has conv, involution"),
        ("student.deph=", "has no key 'deph'"),
        ("teachers.*=", "there is no such teacher"),
    ):
        with pytest.raises(RecipeError, match=line):
            Settings(keys=[key]).applied(recipe)
    with pytest.raises(RecipeError, match="at least one"):
        Settings(keys=["teachers.conv=", "teachers.involution="]).applied(recipe)


def test_later_settings_win(recipe):
    changed = Settings(epochs=7, keys=["student.training.epochs=8", "student.training.epochs=9"]).applied(recipe)
    assert changed.student.training.epochs == 9


@pytest.mark.slow
def test_they_are_written_into_the_run_which_goes_on_with_them(shell, clothes, tiny_recipe_file, tmp_path):
    out = tmp_path / "run"
    options = ("--epochs", 1, "--set", "student.depth=1", "--recipe", tiny_recipe_file)
    shell.succeeded("distill", "--data", clothes, "--out", out, *options, "--quiet")
    kept = open_run(out).recipe
    assert (kept.student.depth, kept.student.training.epochs, kept.teachers["conv"].training.epochs) == (1, 1, 1)
    assert "depth = 1" in (out / "recipe.toml").read_text()
    shell.succeeded("distill", "--out", out)
    shell.succeeded("distill", "--out", out, "--epochs", 1)
    refused = shell.refused("teach", "conv", "--out", out, "--epochs", 2)
    keys = ("teachers.conv.training.epochs", "teachers.involution.training.epochs", "student.training.epochs")
    assert f"follows another recipe (it differs in {', '.join(keys)}); choose another --out" in refused
    refused = shell.refused("distill", "--out", out, "--size", 20)
    assert "or follows another recipe (it differs in data.size); choose another --out" in refused


@pytest.mark.long
def test_a_plan_takes_the_same_settings(shell, tiny_recipe_file):
    arguments = ["plan", "--images", 200, "--classes", 3, "--size", 20, "--recipe", tiny_recipe_file, "--threads", 1]
    planned = [
        json.loads(shell.succeeded(*arguments, *options, "--json", "-q"))
        for options in ((), ("--epochs", 50), ("--set", "views.mode=online"), ("--set", "teachers.conv="))
    ]
    assert planned[1]["seconds"] > planned[0]["seconds"]
    assert planned[2]["store"] is None
    assert list(planned[3]["teachers"]) == ["involution"]
    assert "[student] has no key 'deph'" in shell.refused(*arguments, "--set", "student.deph=2")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--set", "epochs=3"], "the recipe has no key 'epochs'; did you mean 'teachers.NAME.training.epochs'?"),
        (["--set", "student.training.epoch=3"], "[student.training] has no key 'epoch'; did you mean 'epochs'?"),
        (["--set", "teachers.conv.wieght=3"], "[teachers.conv] has no key 'wieght'; did you mean 'weight'?"),
        (["--set", "student.depth"], "--set student.depth: not KEY=VALUE; write for example"),
        (["--set", "student..depth=1"], "not KEY=VALUE"),
        (["--set", "student.depth.more=1"], "depth is a value and has no keys"),
        (["--set", "student.depth=deep"], "Expected `int`, got `str` - at student.depth"),
        (["--set", "student.depth=1\nseed = 4"], "Expected `int`, got `str` - at student.depth"),
        (["--set", "student.width=101"], "width is a multiple of heads - at student"),
        (["--set", "teachers.third.weight=1"], "missing required field `model`"),
        (["--batch", 7], "--batch 7: epochs is not negative; batch is even and at least 2"),
        (["--lr", -1], "--lr -1.0: lr and clip are above 0"),
        (["--epochs", 0], "--epochs"),
        (["--size", 4], "--size"),
    ],
)
def test_a_wrong_setting_is_one_line_and_nothing_is_written(options, line, shell, clothes, tiny_recipe_file, tmp_path):
    out = tmp_path / "run"
    command = ["distill", "--data", clothes, "--out", out, "--recipe", tiny_recipe_file, *options]
    assert line in shell.refused(*command)
    assert not out.exists()


def test_the_recipes_that_come_along_are_listed_and_shown(shell, tmp_path):
    listed = json.loads(shell.succeeded("recipe", "list", "--json"))
    assert listed.keys() == shipped_recipes().keys()
    assert all(20 < len(summary) < 130 for summary in listed.values())
    assert set(listed) <= set(shell.succeeded("recipe", "list").split())
    for name in listed:
        for number, options in enumerate([(), ("--full",)]):
            path = tmp_path / f"{name}-{number}.toml"
            path.write_text(shell.succeeded("recipe", "show", name, *options))
            assert read_recipe(path) == read_recipe(name)
    assert shell.succeeded("recipe", "show", "small", "--full") == write_recipe(read_recipe("small"))
    assert json.loads(shell.succeeded("recipe", "show", "demo", "--json"))["student"]["patch"] == 8


def test_a_recipe_that_is_not_there(shell):
    assert "name a TOML file or one of demo, large" in shell.refused("recipe", "show", "smal")
    assert "name a recipe: demo, large" in shell.refused("recipe", "show")
    assert "`libkd-sdk recipe show small` shows it" in shell.refused("recipe", "list", "small")
    assert "list" in shell.refused("recipe", "shw")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("di", ["distill"]),
        ("distill --recipe ", sorted(shipped_recipes())),
        ("recipe show ph", ["photos"]),
        ("export --target on", ["onnx"]),
        ("export --precision ", ["fp32", "fp16", "int8"]),
        ("plan --precision in", ["int8"]),
        ("distill --ep", ["--epochs"]),
    ],
)
def test_shells_complete_commands_options_and_values(words, completed):
    command = f"libkd-sdk {words}"
    environment = {
        **os.environ,
        "_LIBKD_SDK_COMPLETE": "complete_bash",
        "COMP_WORDS": command,
        "COMP_CWORD": str(command.count(" ")),
    }
    process = subprocess.run([LIBKD], env=environment, capture_output=True, text=True, check=True)
    assert process.stdout.split() == completed


def test_quiet_leaves_only_errors(shell, clothes, tiny_recipe_file, tmp_path, bundle):
    image = clothes / "test/Bag/0.png"
    (tmp_path / "no.png").write_bytes(b"")
    done = shell.run("predict", bundle, image, tmp_path / "no.png", "-q", "--json")
    assert (done.code, done.err) == (2, "")
    assert "no such recipe" in shell.refused("distill", "--data", clothes, "--recipe", "x", "--quiet")
    assert "no.png" in shell.run("predict", bundle, tmp_path / "no.png").err

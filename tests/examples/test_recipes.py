"""The recipes in examples/recipes can be used, and each README names its command and its result, if it was run."""

import re
import tomllib
from pathlib import Path

import pytest
from msgspec.structs import replace

import sdk
from published import write_weights
from trainer.arms import read_changes
from trainer.models import create_student, create_teacher
from trainer.recipe import read_recipe

FOLDERS = sorted(path.parent for path in (Path(__file__).parents[2] / "examples/recipes").glob("*/README.md"))
FILES = sorted(path for folder in FOLDERS for path in folder.glob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_recipe_can_be_used(path, tmp_path):
    if "teachers" not in tomllib.loads(path.read_text()):
        assert read_changes(path)  # arms of a comparison
        return
    recipe, preprocessing = read_recipe(path), sdk.Preprocessing.square(32)
    for teacher in recipe.teachers.values():
        if teacher.weights:
            teacher = replace(teacher, weights=str(write_weights(tmp_path / "lite0.safetensors")))
        create_teacher(teacher, 10, preprocessing)
    create_student(recipe.student, len(recipe.teachers), 10, preprocessing)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_readme_names_its_command_and_its_result(folder):
    text = (folder / "README.md").read_text()
    commands = re.findall(r"^libkd-sdk (?:distill|compare) .*--recipe (\S+)", text, re.MULTILINE)
    assert commands
    for recipe in commands:
        assert (FOLDERS[0].parents[2] / recipe).is_file() or read_recipe(recipe)
    assert any(folder.glob("results*.json")) or "Not run yet" in text

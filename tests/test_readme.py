"""The README says nothing that the code does not."""

import re
from pathlib import Path

import msgspec

import sdk
from libkd_sdk.main import app
from trainer.recipe import RECIPES, Recipe, read_recipe

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_its_recipe_is_the_one_for_small_pictures_and_names_every_key():
    (recipe,) = blocks("toml")
    assert msgspec.toml.decode(recipe, type=Recipe) == read_recipe("small")
    keys = set(re.findall(r"\w+", recipe))
    for table in (Recipe, *(field.type for field in msgspec.structs.fields(Recipe) if isinstance(field.type, type))):
        if isinstance(table, type) and issubclass(table, msgspec.Struct):
            assert keys.issuperset(table.__struct_fields__), table
    assert {path.stem for path in RECIPES.glob("*.toml")} <= set(re.findall(r"`(\w+)`", README))


def test_its_commands_exist_and_none_is_missing():
    known = {command.name for command in app.registered_commands}
    assert set(re.findall(r"libkd-sdk (\w+)", README)) <= known
    table = set(re.findall(r"^\| `(\w+)", README, re.MULTILINE)) | set(re.findall(r"`, `(\w+)` \|", README))
    assert known <= table


def test_its_examples_are_python_and_import_what_there_is():
    for block in blocks("python"):
        compile(block, "README", "exec")
        for name in re.findall(r"\bsdk\.(\w+)", block):
            assert name == "testing" or hasattr(sdk, name), name

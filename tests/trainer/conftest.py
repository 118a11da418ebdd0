"""The recipe and the dataset that the trainer's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.data import Dataset, load
from trainer.recipe import DataRecipe, Recipe, read_recipe


@pytest.fixture(scope="session")
def tiny_recipe(tiny_recipe_file: Path) -> Recipe:
    return read_recipe(tiny_recipe_file)


@pytest.fixture(scope="session")
def tiny_data(clothes: Path) -> Dataset:
    return load([clothes], DataRecipe())

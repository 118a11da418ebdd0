"""The recipe, the dataset and the finished run that the trainer's tests share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from clothes import unpack_clothes
from jobs import job_of
from tars_of_samples import pack_into
from trainer.arms import plain_arm
from trainer.data import Dataset, load
from trainer.pipeline import run_pipeline, train_arm
from trainer.recipe import DataRecipe, Recipe, read_recipe
from trainer.run import Run, Source, open_run, start_run


@pytest.fixture(scope="session")
def tiny_recipe(tiny_recipe_file: Path) -> Recipe:
    return read_recipe(tiny_recipe_file)


@pytest.fixture(scope="session")
def tiny_data(clothes: Path) -> Dataset:
    return load([clothes], DataRecipe())


@pytest.fixture(scope="session")
def finished(tiny_recipe: Recipe, tiny_data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole run that was not interrupted, with the student without teachers. Do not change it: change a copy."""
    run = start_run(tmp_path_factory.mktemp("finished"), tiny_recipe, tiny_data, Source(("clothes",)))
    job = job_of(run, tiny_data)
    run_pipeline(job)
    train_arm(job, plain_arm(run.recipe))
    return run


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More of the clothes than `clothes` has. Shared: change a copy."""
    return unpack_clothes(tmp_path_factory.mktemp("photos"), train=60, test=12)


@pytest.fixture(scope="session")
def shards(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos in shards of 31 samples. Shared: change a copy."""
    return pack_into(tmp_path_factory.mktemp("packed") / "shards", photos, per_shard=31)


@pytest.fixture
def copy(finished: Run, tmp_path: Path) -> Run:
    """A copy of the finished run, which a test may damage."""
    return open_run(shutil.copytree(finished.folder, tmp_path / "run"))

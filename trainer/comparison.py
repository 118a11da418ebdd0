"""What teachers are worth: the same student without them, with each alone, with all, and in other arms, over seeds."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import torch
from scipy import stats

from .data import Dataset
from .errors import RecipeError
from .pipeline import train_arm
from .progress import Progress
from .recipe import Recipe
from .run import Run, Source, create_student, start_run
from .train import Arm, own_arm, plain_arm, train_teacher

PLAIN, ALL = "without teachers", "all teachers"


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How an arm differs from the run: keys of its `views` and `student`, fewer teachers, no unlabelled pictures."""

    views: dict[str, Any] = {}
    student: dict[str, Any] = {}
    teachers: list[str] | None = None
    unlabelled: bool = True


def read_changes(path: Path) -> dict[str, Change]:
    """Arms by name, from a TOML file with a table for each.

    Raises:
        RecipeError: it can't be read, or has a key that nobody knows.
    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=dict[str, Change])
    except (OSError, msgspec.MsgspecError, ValueError) as fault:
        raise RecipeError(f"{path}: no arms ({fault}); each is a table with views, student or teachers") from fault


def arms(run: Run, data: Dataset, changes: Mapping[str, Change]) -> dict[str, Arm]:
    """The arms of a comparison: those that every comparison has, and those of `changes`.

    Raises:
        RecipeError: a change makes no recipe, or two arms have one name.
    """
    teachers = tuple(run.recipe.teachers)
    found = {PLAIN: plain_arm(run)}
    if len(teachers) > 1:
        found |= {f"{name} alone": Arm(f"arms/{name}-alone", (name,), run.recipe) for name in teachers}
    found[ALL] = own_arm(run)
    if data.unlabelled is not None:
        found[f"{ALL}, labelled pictures only"] = Arm("arms/labelled", teachers, run.recipe, unlabelled=False)
    found |= {name: _changed(run, name, change) for name, change in changes.items()}
    stages = Counter(arm.stage for arm in found.values())
    for name, arm in found.items():
        if stages[arm.stage] > 1:
            raise RecipeError(f"arm {name!r}: another one is kept in {arm.stage} too; name it otherwise")
    return found


def students(data: Dataset, changes: Mapping[str, Change]) -> Callable[[Recipe], list[Arm]]:
    """Return what gives the arms that a comparison with these changes trains by a recipe."""
    return lambda recipe: list(arms(Run(Path(), recipe), data, changes).values())


def _changed(run: Run, name: str, change: Change) -> Arm:
    recipe = msgspec.to_builtins(run.recipe)
    for table in ("views", "student"):
        recipe[table] = _merged(recipe[table], getattr(change, table))
    teachers = tuple(run.recipe.teachers if change.teachers is None else change.teachers)
    try:
        if not set(teachers) <= set(run.recipe.teachers):
            raise ValueError(f"no teachers {', '.join(teachers)} in the recipe")
        arm = Arm(f"arms/{_file_name(name)}", teachers, msgspec.convert(recipe, Recipe), change.unlabelled)
        if teachers:
            arm.teaching()
    except (msgspec.ValidationError, ValueError) as fault:
        raise RecipeError(f"arm {name!r}: {fault}; see the README for the keys") from fault
    return arm


def _merged(one: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    nested = {key: _merged(one[key], value) for key, value in other.items() if isinstance(one.get(key), dict)}
    return {**one, **other, **nested}


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-=." else "-" for letter in name)


def compare_arms(
    folder: Path,
    recipe: Recipe,
    data: Dataset,
    source: Source,
    seeds: Sequence[int],
    changes: Mapping[str, Change],
    device: torch.device,
    progress: Progress,
) -> dict[str, Any]:
    """Train every arm with every seed, each seed a run of its own in `folder/seed-N`; what is done is not done again.

    Returns:
        the figures on the test pictures, and top-1 on the validation pictures to choose by: `teachers` and `arms`,
        each by name with lists over the seeds, their mean and standard deviation; and `pairs`, see `paired`.

    Raises:
        RecipeError: an arm can't be trained.
    """
    for arm in arms(Run(folder, recipe), data, changes).values():  # now, while nothing is written
        create_student(arm.recipe.student, len(recipe.teachers), len(data.labels), data.preprocessing)
    runs = {
        seed: start_run(folder / f"seed-{seed}", msgspec.structs.replace(recipe, seed=seed), data, source)
        for seed in seeds
    }
    chosen = {seed: arms(run, data, changes) for seed, run in runs.items()}
    for seed, run in runs.items():
        progress.tell(f"seed {seed}")
        for name in run.recipe.teachers:
            train_teacher(run, name, data, device, progress)
        for arm in chosen[seed].values():
            train_arm(run, data, arm, device, progress)
    stages = {name: arm.stage for name, arm in next(iter(chosen.values())).items()}
    kept = {name: [run.config(stage) for run in runs.values()] for name, stage in stages.items()}
    figures = {name: _figures(configs) for name, configs in kept.items()}
    teachers = {name: [run.config(f"teachers/{name}") for run in runs.values()] for name in recipe.teachers}
    return {
        "pictures": _counts(data),
        "device": _device_name(device),
        "torch": torch.__version__,
        "seeds": list(seeds),
        "teachers": {name: _figures(configs) for name, configs in teachers.items()},
        "arms": figures,
        "pairs": paired({name: row["top1"] for name, row in figures.items()}),
    }


def paired(top1: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Compare each arm with each one before it, seed by seed.

    Args:
        top1: of each arm, over the same seeds.

    Returns:
        for each pair, `arm` and the earlier one that it is compared `with`, the mean `difference` between them, and its
        95 % `interval` by Student's t, which is None where there is a single seed.
    """
    rows = []
    for earlier, later in combinations(top1, 2):
        differences = [mine - theirs for mine, theirs in zip(top1[later], top1[earlier], strict=True)]
        mean = statistics.fmean(differences)
        rows.append({"arm": later, "with": earlier, "difference": mean, "interval": _interval(differences, mean)})
    return rows


def _interval(values: Sequence[float], mean: float) -> list[float] | None:
    if len(values) < 2:
        return None
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return [mean - reach, mean + reach]


def _figures(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Over the seeds, on the test pictures; shares are of 1."""
    tests = [config["results"]["test"] for config in configs]
    top1 = [test["top1"] for test in tests]
    return {
        "parameters": configs[0]["parameters"],
        "top1": top1,
        "mean": statistics.fmean(top1),
        "deviation": _deviation(top1),
        "validation": [config["results"]["validation"]["top1"] for config in configs],
        "ece": statistics.fmean(test["ece"] for test in tests),
        "nll": statistics.fmean(test["nll"] for test in tests),
        "seconds": statistics.fmean(config["seconds"] for config in configs),
    }


def _deviation(values: Sequence[float]) -> float | None:
    """The sample's standard deviation; None of one value."""
    return statistics.stdev(values) if len(values) > 1 else None


def _counts(data: Dataset) -> dict[str, int]:
    splits = {"train": data.train, "unlabelled": data.unlabelled, "validation": data.validation, "test": data.test}
    return {name: len(split) for name, split in splits.items() if split is not None}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"

"""A comparison: the same student without teachers, with each alone, with all, and in other arms, over several seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import combinations
from pathlib import Path

import msgspec
import torch
from msgspec.structs import replace
from scipy import stats

from sdk.errors import UsageError

from . import parallel
from .arms import Change, arms_of, list_arms, read_changes
from .budget import cut_to
from .caveats import caveats, uncertain
from .checkup import check_run, clear_run
from .counts import Counts
from .data import Dataset
from .device import device_name
from .estimate import tell_estimate
from .evaluate import majority
from .folder import alone
from .lanes import Lanes
from .models import create_student
from .opening import first_lines
from .pipeline import train_arms, train_teachers
from .progress import Progress, Silent
from .recipe import Recipe
from .records import NetRecord, read_record, write_record
from .run import Job, Run, Source, image_counts, start_run, teacher_stage
from .settings import UNCHANGED, Settings
from .start import RunRequest, Sources, check_shared, choose, in_place, source_of
from .train import check_claim
from .units import Deadline, deadline_of

RESULTS = "results.json"


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one net over the seeds. Shares are between 0 and 1.

    Attributes:
        stage: its folder in the run of each seed. Results of earlier versions do not have it.
        parameters: the number of its parameters.
        top1: accuracy on the test images, for each seed.
        mean, deviation: the mean of `top1` and its sample standard deviation, which is None for a single seed.
        validation: accuracy on the validation images, for each seed. Choose by this one.
        ece, nll: mean calibration error and negative log likelihood on the test images.
        seconds: how long the training took, on average.
    """

    stage: str = ""
    parameters: int
    top1: tuple[float, ...]
    mean: float
    deviation: float | None
    validation: tuple[float, ...]
    ece: float
    nll: float
    seconds: float


class Pair(msgspec.Struct, frozen=True, kw_only=True, rename={"other": "with"}):
    """The difference in top-1 between two arms, paired by seed.

    Attributes:
        arm, other: the arm, and the earlier one that it is compared with (`with` in JSON).
        difference: the mean difference, arm minus other.
        interval: its 95 % interval by Student's t, which is None for a single seed.
    """

    arm: str
    other: str
    difference: float
    interval: tuple[float, float] | None


class ComparisonResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a comparison, as in `results.json`.

    Attributes:
        data: the names of the sources.
        recipe: the recipe's name, if it has one, and how it was changed.
        images: the number of images in each split.
        device, torch: where and with which version it ran.
        seeds: the seeds, in the order of all lists.
        teachers, arms: the figures of each teacher and of the student of each arm, by name.
        pairs: the difference between each arm and every arm before it.
        majority: the accuracy on the test images of a model that always answers their largest class. Results of
            earlier versions do not have it.
        caveats: sentences on nets that learned nothing, classes with few test images, and differences that chance may
            explain.
    """

    data: tuple[str, ...]
    recipe: str | None
    images: dict[str, int]
    device: str
    torch: str
    seeds: tuple[int, ...]
    teachers: dict[str, Figures]
    arms: dict[str, Figures]
    pairs: tuple[Pair, ...]
    majority: float | None = None
    caveats: tuple[str, ...] = ()


def compare(
    data: Sources | None,
    out: str | Path,
    *,
    recipe: Recipe | str | Path | None = None,
    unlabelled: Sources = (),
    root: str | Path | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    arms: Mapping[str, Change] | str | Path | None = None,
    labels: float | None = None,
    within: str | Deadline | None = None,
    device: str = "auto",
    threads: int | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
    settings: Settings = UNCHANGED,
) -> ComparisonResult:
    """Measure what the teachers are worth: train the same student with and without them, with every seed.

    Called again, it continues where it stopped.

    Args:
        data, recipe, unlabelled, root, within, device, threads, skip_bad, progress, settings: see `trainer.distill`.
        out: a folder for the runs and `results.json`.
        seeds: a run is made for each seed.
        arms: further arms by name, or a TOML file of them.
        labels: use the labels of this share of the training images; the others count as unlabelled.

    Raises:
        UsageError: no data is named, or the arguments do not go together.
        DataError, RecipeError, RunError, StoreError: something is wrong with the data, the recipe or the folder, or
            another process works on it.
        FileError: the disk is full, or the folder can't be written.
        Diverged, OutOfMemory: a training failed.
    """
    deadline = deadline_of(within)
    source = source_of(data, unlabelled, root, skip_bad)
    if source is None:
        raise UsageError("name the images by --data")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError("--seeds names a seed twice" if seeds else "--seeds names no seed")
    changes = read_changes(Path(arms)) if isinstance(arms, (str, Path)) else arms or {}
    folder = Path(out)
    request = RunRequest(out=folder / seed_folder(seeds[0]), device=device, threads=threads)
    with in_place(request, alone(folder), progress or Silent()) as (torch_device, told):
        chosen, dataset = parallel.agreed(lambda: choose(source, recipe, told, settings, labels))
        check_shared(chosen, dataset)
        for line in first_lines(dataset, chosen):
            told.tell(line)
        first = Job(Run(request.out, chosen), dataset, torch_device, told)
        cut = parallel.from_first(lambda: cut_to(deadline, first, arms=arms_of(dataset, changes), runs=len(seeds)))
        result = compare_arms(Job(Run(folder, cut), dataset, torch_device, told), source, seeds, changes)
        if isinstance(recipe, (str, Path)):
            result = replace(result, recipe=" ".join((Path(recipe).stem, *settings.words())))
        parallel.from_first(lambda: write_record(folder / RESULTS, result))
    return result


def compare_arms(job: Job, source: Source, seeds: Sequence[int], changes: Mapping[str, Change]) -> ComparisonResult:
    """Train every arm with every seed. Each seed is a run of its own; what is finished is not trained again.

    Args:
        job: the folder of the comparison, and the recipe of all runs; each run replaces its seed.
        source: where the job's data comes from.
        changes: further arms by name.

    Raises:
        RecipeError: an arm can't be trained.
        RunError, StoreError: a folder holds something else, something in it is damaged, or another process works on it.
        FileError: the disk is full, or the folder can't be written.
    """
    recipe, data = job.run.recipe, job.data
    for arm in list_arms(recipe, data, changes).values():  # before anything is written
        create_student(arm.recipe.student, len(recipe.teachers), len(data.labels), data.preprocessing)
        lanes, is_streamed = Lanes(recipe.data.lanes), data.train.is_streamed
        lanes.check(arm.recipe.student.training.batch, arm.images(Counts.of(data)), is_streamed=is_streamed)
    with ExitStack() as held:
        runs = [held.enter_context(_run_of(job, source, seed)) for seed in seeds]
        for run in runs:
            for arm in list_arms(run.recipe, data, changes).values():
                check_claim(run, arm)
        jobs = [Job(run, data, job.device, job.progress) for run in runs]
        tell_estimate(jobs, arms_of(data, changes))
        for seed, own in zip(seeds, jobs, strict=True):
            job.progress.tell(f"seed {seed}")
            train_teachers(own)
            train_arms(own, [*list_arms(own.run.recipe, data, changes).values()])
    stages = {name: arm.stage for name, arm in list_arms(runs[0].recipe, data, changes).items()}
    figures = {name: _figures(runs, stage) for name, stage in stages.items()}
    pairs = paired({name: row.top1 for name, row in figures.items()})
    return ComparisonResult(
        data=tuple(Path(name).name for name in source.data),
        recipe=None,
        images=image_counts(data),
        device=_device(job.device),
        torch=str(torch.__version__),
        seeds=tuple(seeds),
        teachers={name: _figures(runs, teacher_stage(name)) for name in recipe.teachers},
        arms=figures,
        pairs=pairs,
        majority=majority(data.test.labels),
        caveats=_caveats(dict(zip(seeds, runs, strict=True)), stages, data, pairs),
    )


def _caveats(
    runs: Mapping[int, Run], stages: Mapping[str, str], data: Dataset, pairs: Sequence[Pair]
) -> tuple[str, ...]:
    named = {f"teacher {name}": teacher_stage(name) for run in runs.values() for name in run.recipe.teachers}
    named |= {f"student, {name}": stage for name, stage in stages.items()}
    scores = {
        f"{name}, seed {seed}": run.net_record(stage).results["test"]
        for name, stage in named.items()
        for seed, run in runs.items()
    }
    counts = data.test.labels.bincount(minlength=len(data.labels)).tolist()
    return tuple(filter(None, [*caveats(scores, data.labels, counts), uncertain(pairs)]))


@contextmanager
def _run_of(job: Job, source: Source, seed: int) -> Iterator[Run]:
    """Give the run of a seed, new or continued, and keep every other worker from it inside the block."""
    folder = job.run.folder / seed_folder(seed)
    with parallel.by_first(alone(folder)):
        parallel.from_first(lambda: clear_run(folder))
        parallel.agreed(lambda: check_run(folder))
        yield parallel.from_first(lambda: start_run(folder, replace(job.run.recipe, seed=seed), job.data, source))


def read_result(path: Path) -> ComparisonResult:
    """Return the result of a comparison from its `results.json`.

    Raises:
        RunError: the file is missing, damaged, or not such a result.
    """
    return read_record(path, ComparisonResult, "run the comparison again")


def paired(top1: Mapping[str, Sequence[float]]) -> tuple[Pair, ...]:
    """Compare each arm with every arm before it, seed by seed.

    Args:
        top1: the accuracies of each arm, over the same seeds.
    """
    rows = []
    for earlier, later in combinations(top1, 2):
        differences = [mine - theirs for mine, theirs in zip(top1[later], top1[earlier], strict=True)]
        mean = statistics.fmean(differences)
        rows.append(Pair(arm=later, other=earlier, difference=mean, interval=interval_of(differences)))
    return tuple(rows)


def interval_of(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean by Student's t, or None for a single value."""
    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - reach, mean + reach


def _figures(runs: Sequence[Run], stage: str) -> Figures:
    records: list[NetRecord] = [run.net_record(stage) for run in runs]
    tests = [record.results["test"] for record in records]
    top1 = tuple(test.top1 for test in tests)
    return Figures(
        stage=stage,
        parameters=records[0].parameters,
        top1=top1,
        mean=statistics.fmean(top1),
        deviation=statistics.stdev(top1) if len(top1) > 1 else None,
        validation=tuple(record.results["validation"].top1 for record in records),
        ece=statistics.fmean(test.ece for test in tests),
        nll=statistics.fmean(test.nll for test in tests),
        seconds=statistics.fmean(record.seconds for record in records),
    )


def seed_folder(seed: int) -> str:
    """Return the folder of the run with this seed in the folder of its comparison."""
    return f"seed-{seed}"


def _device(device: torch.device) -> str:
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{device_name(device)}{threads}"

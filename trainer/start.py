"""The start of a run, new or continued: load the data, choose the recipe, and cut it to the available time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from dataclasses import replace as with_
from pathlib import Path

import torch
from msgspec.structs import replace
from torch import Tensor

from sdk.errors import UsageError

from . import parallel
from .balance import describe_balance
from .budget import cut_to
from .checkup import check_run, clear_run
from .counts import Counts
from .data import Dataset, Split, load, load_test, load_training_sample, sample
from .device import device_name, pick_device
from .errors import RecipeError
from .folder import alone, together
from .memory import keeping_freed_memory
from .models import size_step
from .opening import first_lines
from .progress import Progress, Silent
from .recipe import LARGEST_SMALL, Recipe, read_recipe, recipe_for
from .run import Job, Run, Source, is_run, open_run, remembered_source, start_run
from .settings import UNCHANGED, Settings
from .sharing import refusal
from .threads import computing
from .units import Deadline, deadline_of

FEW_PHOTOS = 5000
"""With fewer images to train on, a student from published weights is worth a try."""

Sources = str | Path | Sequence[str | Path]
"""A folder, an archive, or the name of a dataset; or several folders or archives."""


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """The run that a caller asks for. If there is a run in the folder, it supplies what is left out here.

    Attributes:
        out: the run's folder.
        source: where the images come from.
        recipe: a recipe, a TOML file, or the name of a recipe that comes with the package.
        seed: replaces the recipe's seed.
        within: the time that a new run may take, such as `30m`, or the moment at which that time ends.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        threads: the number of threads on a CPU. With None, a new run measures which is the fastest.
        settings: changes to the recipe.
    """

    out: Path
    source: Source | None = None
    recipe: Recipe | str | Path | None = None
    seed: int | None = None
    within: str | Deadline | None = None
    device: str = "auto"
    threads: int | None = None
    settings: Settings = UNCHANGED


@contextmanager
def at_work(request: RunRequest, progress: Progress, check: Callable[[Recipe], object] | None = None) -> Iterator[Job]:
    """Give the job for a request, and keep every other worker from its folder inside the block.

    Args:
        check: see `prepare`.

    Raises:
        RunError, StoreError: another worker is there, or something that the run needs is damaged.
        UsageError, DataError, RecipeError, FileError: see `prepare`.
    """
    with in_place(request, alone(request.out), progress) as (_, told):
        parallel.from_first(lambda: clear_run(request.out))
        parallel.agreed(lambda: check_run(request.out))
        job = prepare(request, told, check)
        for line in first_lines(job.data, job.run.recipe):
            told.tell(line)
        yield job


@contextmanager
def at_shared_work(request: RunRequest, progress: Progress) -> Iterator[Job]:
    """Give the job for a request to fill the store of a run, which other processes may do at the same time.

    Raises:
        RunError, StoreError: a worker is there alone, there is no run, or something that the run needs is damaged.
        UsageError, DataError, RecipeError, FileError: see `prepare`.
    """
    open_run(request.out)
    with in_place(request, together(request.out), progress) as (_, told):
        parallel.agreed(lambda: check_run(request.out))
        yield prepare(request, told)


@contextmanager
def in_place(
    request: RunRequest, hold: AbstractContextManager[None], progress: Progress
) -> Iterator[tuple[torch.device, Progress]]:
    """Give the device of a request and a progress, and compute with its number of threads inside the block.

    If several processes were started for this run, they work together there, and only the first one tells progress.

    Args:
        hold: keeps other workers from the folder.

    Raises:
        UsageError: fewer than one thread.
        RecipeError: there is no such device here, or there are more processes than GPUs.
        RunError, FileError: from `hold`.
        ProcessLost: another process of this run ended, hangs or did not come.
    """
    with parallel.joined(), parallel.by_first(hold):
        told = progress if parallel.is_first() else Silent()
        with at_speed(request.device, _threads(request), told) as device:
            yield device, told


@contextmanager
def at_speed(name: str, threads: int | None, progress: Progress) -> Iterator[torch.device]:
    """Give the device of that name, and compute with that number of threads inside the block; `progress` is told both.

    Raises:
        UsageError: fewer than one thread.
        RecipeError: there is no such device here.
    """
    device = parallel.agreed(lambda: pick_device(name))
    on_cpu = device.type == "cpu"
    with computing(threads, device) as chosen, keeping_freed_memory() if on_cpu else nullcontext():
        shared = f", {count} processes" if (count := parallel.world_size()) > 1 else ""
        progress.tell(f"device: {device_name(device)}{f', {chosen}' if on_cpu else ''}{shared}")
        yield device


def _threads(request: RunRequest) -> int | None:
    known = known_threads(request.out) if parallel.world_size() == 1 else None  # processes divide the cores
    return request.threads or known


def known_threads(folder: Path) -> int | None:
    """Return the number of threads that the run in `folder` began with; None without a run.

    It continues with them: on a CPU, another number would give weights with other bits.

    Raises:
        RunError: the run is damaged.
    """
    return open_run(folder).data_record().threads if is_run(folder) else None


def prepare(request: RunRequest, progress: Progress, check: Callable[[Recipe], object] | None = None) -> Job:
    """Return the job for a request: for a new run, or for the run in the folder.

    Args:
        check: is called with the recipe before anything is written, and may raise an error.

    Raises:
        UsageError: there is no run in the folder and no data is named, or `within` is not a time.
        DataError, RecipeError, RunError: something is wrong with the data, the recipe or the folder.
        FileError: the folder can't be written.
    """
    deadline = deadline_of(request.within)
    device = pick_device(request.device)

    def chosen() -> tuple[Source, Recipe, Dataset]:
        source = request.source or remembered_source(request.out)
        if source is None:
            raise UsageError(f"{request.out}: no run there yet; name the images by --data")
        known = open_run(request.out).recipe if is_run(request.out) else None
        recipe, data = choose(source, request.recipe or known, progress, request.settings)
        if request.seed is not None:
            recipe = replace(recipe, seed=request.seed)
        if check is not None:
            check(recipe)
        return source, recipe, data

    source, recipe, data = parallel.agreed(chosen)
    check_shared(recipe, data)

    def started() -> Run:
        wanted = Job(Run(request.out, recipe), data, device, progress)
        return start_run(request.out, cut_to(deadline, wanted), data, source)

    return Job(parallel.from_first(started), data, device, progress)


def check_shared(recipe: Recipe, data: Dataset) -> None:
    """Refuse what several processes can't do together.

    Raises:
        RecipeError: they have other recipes or images, or can't share a batch evenly.
    """
    parallel.check_same({"recipes": recipe.hash(), "images": data.hash() if parallel.world_size() > 1 else ""})
    is_streamed = data.train.is_streamed
    if reason := refusal(recipe, Counts.of(data), parallel.world_size(), is_streamed=is_streamed):
        raise RecipeError(reason)


def test_images(folder: Path, progress: Progress) -> Split:
    """Return the test images of the run in `folder`. Other images are only read if these are a part of them.

    Raises:
        DataError, RunError: the images or the run are damaged, or the images are not those of the run.
    """
    run = open_run(folder)
    about, source = run.data_record(), remembered_source(folder)
    if about.test_hash is not None and source is not None:
        split = load_test(source.data, run.recipe.data, about.labels, root=source.root, progress=progress)
        if split is not None and split.hash() == about.test_hash:
            return split
    return prepare(RunRequest(out=folder), progress).data.test


def training_sample(folder: Path, count: int, progress: Progress) -> Tensor:
    """Return the pixels of at most `count` images that the run in `folder` trains on, uint8 [n, height, width, 3].

    They are evenly spread. Other images are only read if it can't be known otherwise which ones are held back.

    Raises:
        DataError, RunError: the images are missing or can't be read, or the run is damaged.
    """
    run, source = open_run(folder), remembered_source(folder)
    if source is not None and not run.data_record().skipped:
        pixels = load_training_sample(source.data, run.recipe.data, count, progress=progress)
        if pixels is not None:
            return pixels
    return sample(prepare(RunRequest(out=folder), progress).data.train, count)


def choose(
    source: Source,
    recipe: Recipe | str | Path | None,
    progress: Progress,
    settings: Settings = UNCHANGED,
    labels: float | None = None,
) -> tuple[Recipe, Dataset]:
    """Load the images, and choose the recipe for images of their size if none is named.

    Args:
        settings: changes to the recipe.
        labels: replaces the recipe's `data.labels`.

    Raises:
        UsageError: `labels` is not a share.
        DataError, RecipeError: the images can't be used, there is no such recipe, or it can't be changed like this.
    """
    named = read_recipe(recipe) if isinstance(recipe, (str, Path)) else recipe
    chosen = settings.applied(named or recipe_for(0))  # until their size is known, for small images
    how = chosen.data  # which is the same in all default recipes
    if labels is not None:
        try:
            how = replace(how, labels=labels)
        except ValueError as fault:
            raise UsageError(f"--labels: {fault}") from fault
    data = load(
        source.data,
        how,
        root=source.root,
        unlabelled=source.unlabelled,
        size_step=size_step(chosen.student),
        skip_bad=source.skip_bad,
        progress=progress,
    )
    if uneven := describe_balance(data.train.counts(len(data.labels)), data.labels, how.balance):
        progress.tell(uneven)
    if named is None:
        size = data.preprocessing.input.height
        chosen = settings.applied(recipe_for(size))
        progress.tell(f"recipe: the one for images of {size} pixels, because --recipe names no other")
        _suggest(data, progress)
    return replace(chosen, data=how), data


def choose_sample(
    source: Source,
    images: int,
    recipe: Recipe | str | Path | None,
    progress: Progress,
    settings: Settings = UNCHANGED,
) -> tuple[Recipe, Dataset, Counts]:
    """Load images that are a sample of `images` images to train on; see `choose`. Return the counts of those, too.

    If the recipe would keep so many as files, the sample stays files as well, which are decoded in every epoch.
    """
    chosen, data = choose(source, recipe, progress, settings)
    counts, (height, width) = Counts.of(data).grown_to(images), data.train.size
    if data.train.nbytes and counts.students * height * width * 3 > chosen.data.memory_gb * 2**30:
        as_files = with_(settings, keys=(*settings.keys, "data.memory_gb=0"))
        data = choose(source, recipe, Silent(), as_files)[1]
    return chosen, data, counts


def _suggest(data: Dataset, progress: Progress) -> None:
    """Say so if nets from published weights would learn more from such data than the default recipe's nets."""
    count = len(data.train)
    if count < FEW_PHOTOS and data.preprocessing.input.height > LARGEST_SMALL:
        progress.tell(
            f"{count:,} images are few for nets that start from nothing; --recipe photos starts from published weights"
        )


def source_of(
    data: Sources | None, unlabelled: Sources = (), root: str | Path | None = None, skip_bad: bool = False
) -> Source | None:
    """Return where the images come from, or None if no data is named.

    Raises:
        UsageError: there are unlabelled images, or unreadable ones are allowed, without data.
    """
    if data is None or not (names := _names(data)):
        for option, is_given in (("--unlabelled", _names(unlabelled)), ("--skip-bad", skip_bad)):
            if is_given:
                raise UsageError(f"{option} goes with --data; a run that is there remembers both")
        return None
    return Source(names, Path(root) if root else None, _names(unlabelled), skip_bad)


def _names(sources: Sources) -> tuple[str, ...]:
    return (str(sources),) if isinstance(sources, (str, Path)) else tuple(map(str, sources))

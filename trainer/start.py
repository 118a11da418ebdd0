"""The start of a run, new or continued: load the data, choose the recipe, and cut it to the available time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from sdk.errors import UsageError

from .budget import cut_to
from .checkup import check_run, clear_run
from .data import Dataset, load
from .device import pick_device
from .folder import alone, together
from .progress import Progress
from .recipe import Recipe, read_recipe, recipe_for
from .run import Job, Run, Source, is_run, open_run, remembered_source, start_run
from .settings import UNCHANGED, Settings
from .units import Deadline, deadline_of

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
        settings: changes to the recipe.
    """

    out: Path
    source: Source | None = None
    recipe: Recipe | str | Path | None = None
    seed: int | None = None
    within: str | Deadline | None = None
    device: str = "auto"
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
    with alone(request.out):
        clear_run(request.out)
        check_run(request.out)
        yield prepare(request, progress, check)


@contextmanager
def at_shared_work(request: RunRequest, progress: Progress) -> Iterator[Job]:
    """Give the job for a request to fill the store of a run, which other processes may do at the same time.

    Raises:
        RunError, StoreError: a worker is there alone, there is no run, or something that the run needs is damaged.
        UsageError, DataError, RecipeError, FileError: see `prepare`.
    """
    open_run(request.out)
    with together(request.out):
        check_run(request.out)
        yield prepare(request, progress)


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
    source = request.source or remembered_source(request.out)
    if source is None:
        raise UsageError(f"{request.out}: no run there yet; name the images by --data")
    known = open_run(request.out).recipe if is_run(request.out) else None
    recipe, data = choose(source, request.recipe or known, progress, request.settings)
    if request.seed is not None:
        recipe = replace(recipe, seed=request.seed)
    if check is not None:
        check(recipe)
    wanted = Job(Run(request.out, recipe), data, device, progress)
    run = start_run(request.out, cut_to(deadline, wanted), data, source)
    return Job(run, data, device, progress)


def choose(
    source: Source,
    recipe: Recipe | str | Path | None,
    progress: Progress,
    settings: Settings,
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
    chosen = read_recipe(recipe) if isinstance(recipe, (str, Path)) else recipe
    how = settings.applied(chosen or recipe_for(0)).data  # this table is the same in all default recipes
    if labels is not None:
        try:
            how = replace(how, labels=labels)
        except ValueError as fault:
            raise UsageError(f"--labels: {fault}") from fault
    data = load(source.data, how, root=source.root, unlabelled=source.unlabelled, progress=progress)
    chosen = settings.applied(chosen or recipe_for(data.preprocessing.input.height))
    return replace(chosen, data=how), data


def source_of(data: Sources | None, unlabelled: Sources = (), root: str | Path | None = None) -> Source | None:
    """Return where the images come from, or None if no data is named.

    Raises:
        UsageError: there are unlabelled images without data.
    """
    if data is None or not (names := _names(data)):
        if _names(unlabelled):
            raise UsageError("--unlabelled goes with --data; a run that is there remembers both")
        return None
    return Source(names, Path(root) if root else None, _names(unlabelled))


def _names(sources: Sources) -> tuple[str, ...]:
    return (str(sources),) if isinstance(sources, (str, Path)) else tuple(map(str, sources))

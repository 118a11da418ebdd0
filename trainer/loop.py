"""The training loop. Teachers and students both go through it; read it from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, tee
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from . import parallel
from .balance import image_weights
from .checkpoint import Position
from .data import Preprocessing, Rows, Samples, joined, to_device, to_input
from .device import device_name
from .errors import Diverged, OutOfMemory
from .evaluate import logits_of, top1
from .lanes import ONE_LANE, Lanes
from .learner import Learner
from .metrics import Metrics, first_loss
from .progress import EpochNotes
from .recipe import Balance, Training
from .records import EpochRow
from .run import Job, recipe_table
from .stopping import finishing, stopped
from .tensors import not_finite
from .views import ExtraSpec, View, ViewSpec, enhance, render, seed_of

RENDERED_AT_ONCE = 2**23
"""The number of pixels that a GPU renders at once: 8,192 images of 32 x 32. A view is hundreds of small operations, and
launching them takes longer than computing the pixels of one batch. A CPU renders one batch at a time, which fits into
its caches."""

LOST_AT_MOST = 20.0
"""The seconds of training that may be lost when the process is killed, if an epoch is shorter than that. Writing a
checkpoint takes as long as a short epoch."""

CHECK_EVERY = 50
"""Steps between two checks that the loss is still a number. Each check waits for the device."""

NO_EXTRA = ExtraSpec()

Net = TypeVar("Net", bound=nn.Module)


class Batch(NamedTuple):
    """Some samples of one view: those of a batch that this process computes.

    Attributes:
        rows: the samples.
        view: their pixels, and how they are mixed.
    """

    rows: Rows
    view: View


Answers = Callable[[Batch], Tensor]
"""The answers of the teachers to a batch, float32 [B, teachers, classes]."""

Objective = Callable[[Tensor, Tensor, Tensor | None], dict[str, Tensor]]
"""(the model's output, soft labels [B, C], the teachers' answers) -> named losses, whose sum is minimised."""


class EpochPlan(NamedTuple):
    """The plan of one epoch: the number of the view that it shows, the teachers' answers, and the objective on them."""

    view: int
    objective: Objective
    answers: Answers | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """The net to train: where it is kept, what it learns from, and how.

    Attributes:
        stage: its folder in the run, such as `teachers/conv` or `student`.
        split: the images that it learns from.
        training: its schedule.
        preprocessing: how images become its input.
        spec, seed: the specification of its views, and the seed that they are drawn from.
        extra: further augmentation that this net alone sees, on top of the views.
        new: the names of its parts that have no published weights; see `trainer.learner.Learner`.
    """

    stage: str
    split: Samples
    training: Training
    preprocessing: Preprocessing
    spec: ViewSpec
    seed: int
    extra: ExtraSpec = NO_EXTRA
    new: tuple[str, ...] = ()


def batches(
    samples: Samples,
    *,
    seed: int,
    view: int,
    epoch: int,
    size: int,
    spec: ViewSpec,
    lanes: Lanes = ONE_LANE,
    start: int = 0,
) -> Iterator[Batch]:
    """Give the batches of one epoch over one view: its pairs, shuffled with the epoch's key.

    If processes share the batches, each gets its own lanes of them. The first `start` batches are left out. A view has
    the same pixels in any batch.
    """
    together = RENDERED_AT_ONCE // (size * math.prod(samples.size)) if samples.device.type == "cuda" else 1
    shown, wanted = tee(_grouped(samples.epoch(seed, view, epoch, size, lanes, start), max(1, together)))
    given = samples.feed(joined(rows).indices for rows in wanted)
    for images, group in zip(given, shown, strict=True):  # workers are forked before any shard is opened by a thread
        rendered = render(images, joined(group).ids, seed=seed, view=view, spec=spec)
        sizes = [len(rows) for rows in group]
        views = map(View, rendered.pixels.split(sizes), rendered.own.split(sizes))
        yield from map(Batch, group, views)


def _grouped(rows: Iterator[Rows], count: int) -> Iterator[list[Rows]]:
    while group := list(islice(rows, count)):
        yield group


def fit(model: Net, plan: Callable[[int], EpochPlan], task: Task, job: Job) -> Net:
    """Train `model` and return it with its averaged weights, in evaluation mode.

    A checkpoint is written after whole epochs, often enough that a killed process loses one epoch or `LOST_AT_MOST`
    seconds. The next call continues from it and ends with the same weights as an undisturbed run (on the CPU to the
    bit).

    Args:
        plan: gives for each epoch, counted from 0, the view that it shows and the objective on it.
        job: the run that keeps checkpoints and metrics, the validation images, and the device.

    Raises:
        Diverged: the loss or a weight is no number any more, or the loss has doubled. The checkpoint before it stays.
        RunError: the checkpoint or `metrics.jsonl` is damaged.
        FileError: the disk is full, or the folder can't be written.
        OutOfMemory: a batch is too large for the device. The checkpoint before it stays.
        Stopped: SIGTERM came. The last step is kept.
        RecipeError: several processes can't share the batches evenly.
        ProcessLost: one of them ended or hangs.
    """
    lanes = Lanes(job.run.recipe.data.lanes)
    lanes.check(task.training.batch, len(task.split), is_streamed=task.split.is_streamed)
    steps = task.split.steps(task.training.batch, lanes)
    learner = Learner(model, task.training, steps, job.device, task.new, lanes)
    with finishing() as is_asked_to_stop:
        try:
            return _fitted(learner, plan, task, job, is_asked_to_stop)
        except torch.OutOfMemoryError:
            pass  # the error is raised below, outside of this block, where the memory of the failed step is free again
    raise _out_of_memory(learner, task)


def _fitted(
    learner: Learner[Net],
    plan: Callable[[int], EpochPlan],
    task: Task,
    job: Job,
    is_asked_to_stop: Callable[[], bool],
) -> Net:
    stage, training, device, progress = task.stage, task.training, job.device, job.progress
    train = to_device(task.split, device, progress)
    validation = to_device(job.data.validation, device, progress)
    targets_of = _Targets(train.counts(len(job.data.labels)), training.smoothing, job.run.recipe.data.balance)
    lanes = Lanes(job.run.recipe.data.lanes)
    steps = train.steps(training.batch, lanes)

    checkpoint = job.run.checkpoint(stage)
    position = learner.load(checkpoint)
    is_finished = position.epoch == training.epochs
    notes = EpochNotes(training.epochs, device_name(device))
    start_loss, saved = first_loss(job.run.folder, stage), time.perf_counter()
    progress.begin(f"training {stage}", steps * training.epochs)
    progress.step(steps * position.epoch + position.step)
    metrics = Metrics(job.run.folder, stage, position.epoch) if parallel.is_first() else None
    for epoch in range(position.epoch, training.epochs):
        started, total = time.perf_counter() - position.seconds, torch.tensor(position.loss, device=device)
        notes.begin(epoch)
        view, objective, answers_to = plan(epoch)
        shown = batches(
            train,
            seed=task.seed,
            view=view,
            epoch=epoch,
            size=training.batch,
            spec=task.spec,
            lanes=lanes,
            start=position.step,
        )
        for step, batch in enumerate(shown, start=epoch * steps + position.step):
            pixels = enhance(batch.view.pixels, batch.rows.ids, seed=task.seed, epoch=epoch, spec=task.extra)
            targets, answers = lanes.whole(targets_of(batch)), answers_to and lanes.whole(answers_to(batch))
            torch.manual_seed(seed_of(task.seed, "depth", step))  # only stochastic depth draws from this state
            loss_of = partial(_total, objective, targets, answers)
            total += learner.step(step, to_input(pixels, task.preprocessing), loss_of)
            if step % CHECK_EVERY == 0:
                _check_loss(total.item(), None, stage, epoch)
            progress.step(1, notes.step(len(targets)))
            if is_asked_to_stop():
                done = step + 1 - epoch * steps
                learner.save(checkpoint, Position(epoch, done, total.item(), time.perf_counter() - started))
                raise stopped(f"{stage}, epoch {epoch + 1}")
        position = Position(epoch + 1)
        mean_loss = total.item() / steps
        start_loss = start_loss or mean_loss
        _check_loss(mean_loss, start_loss, stage, epoch)
        seconds = time.perf_counter() - started
        learner.agree()
        judged = logits_of(learner.average, validation, task.preprocessing, training.precision)
        accuracy = top1(judged, validation.labels)
        if metrics is not None:
            metrics.add(
                EpochRow(
                    stage=stage,
                    epoch=epoch,
                    loss=mean_loss,
                    validation_top1=accuracy,
                    lr=learner.lr,
                    seconds=seconds,
                    samples_per_second=steps * min(training.batch, len(train)) / seconds,
                )
            )
        now = time.perf_counter()
        is_due = epoch + 1 == training.epochs or now - saved + (now - started) > LOST_AT_MOST
        if parallel.as_first(is_due):
            _check_weights(learner.average, stage, epoch)
            learner.save(checkpoint, position)
            saved = time.perf_counter()
        progress.step(0, notes.end(mean_loss, accuracy))
    progress.end("" if is_finished else f"validation {accuracy:.1%}")
    return learner.average.eval()


class _Targets:
    """The soft labels of a batch, whose rows count more where their class is rare."""

    def __init__(self, counts: Tensor, smoothing: float, balance: Balance) -> None:
        self._classes, self._smoothing, self._weights = len(counts), smoothing, image_weights(counts, balance)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the labels of a batch, float32 [B, classes]."""
        labels = batch.rows.labels
        targets = batch.view.targets(labels, self._classes, self._smoothing)
        if self._weights is None:
            return targets
        shares = batch.view.targets(labels, self._classes)  # a mixed image counts as the mean of its two
        return targets * (shares @ self._weights)[:, None]


def _total(objective: Objective, targets: Tensor, answers: Tensor | None, output: Tensor) -> Tensor:
    first, *others = objective(output, targets, answers).values()
    return sum(others, start=first)


def _check_loss(loss: float, start: float | None, stage: str, epoch: int) -> None:
    if not math.isfinite(loss):
        raise _diverged(f"the loss is {loss}", stage, epoch)
    if start is not None and loss > 2 * start:
        raise _diverged(f"the loss rose to {loss:.3g} from {start:.3g} in the first epoch", stage, epoch)


def _check_weights(net: nn.Module, stage: str, epoch: int) -> None:
    if name := not_finite(net.state_dict()):
        raise _diverged(f"{name} holds NaN or infinity", stage, epoch)


def _diverged(what: str, stage: str, epoch: int) -> Diverged:
    return Diverged(
        f"{stage}: {what} in epoch {epoch + 1}; what was kept before it stays; "
        "lower its training.lr or clip and choose another --out"
    )


def _out_of_memory(learner: Learner[Net], task: Task) -> OutOfMemory:
    batch, height, width = task.training.batch, task.preprocessing.input.height, task.preprocessing.input.width
    table = recipe_table(task.stage)
    if parallel.world_size() > 1:  # the others wait, and nothing can be tried
        fix = f"set {table}.training.batch to half of it"
    elif fits := learner.affordable(batch, height, width):
        fix = f"{fits} fit: set {table}.training.batch = {fits}"
    else:
        fix = "nor for any smaller one: choose a smaller net"
    return OutOfMemory(
        f"{task.stage}: {learner.device} has no memory for a batch of {batch} images of {height}x{width}; "
        f"{fix}, and another --out"
    )

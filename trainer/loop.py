"""The training loop, read from top to bottom; teachers and students both go through it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .data import Dataset, Preprocessing, Split, to_device, to_input
from .errors import Diverged, OutOfMemory
from .evaluate import logits_of, top1
from .learner import Learner
from .metrics import Metrics, first_loss
from .progress import Progress
from .recipe import Training
from .views import ExtraSpec, View, ViewSpec, enhance, order, render, seed_of


class Batch(NamedTuple):
    """Some samples of one view: `indices` into the split, int64 [B]; their `places` in the view's keyed order."""

    indices: Tensor
    places: Tensor
    view: View


Objective = Callable[[Tensor, Tensor, Batch], dict[str, Tensor]]
"""(the model's output, soft labels [B, C], the batch) -> named losses."""

RENDERED_AT_ONCE = 2**23
"""Pixels that a GPU renders at once, 8,192 pictures of 32 x 32: a view is hundreds of small operations, whose launches
take longer than one batch's pixels. A CPU renders batch by batch, which its caches hold."""

LOST_AT_MOST = 20.0
"""Seconds of training that a kill may cost, where an epoch takes no longer: a checkpoint takes as long as a short
epoch."""

CHECK_EVERY = 50
"""Steps between two looks at whether the loss is still a number: each look waits for the device."""


class EpochPlan(NamedTuple):
    """What one epoch shows: the number of its view, and the objective for it."""

    view: int
    objective: Objective


NOTHING_EXTRA = ExtraSpec()


def batches(split: Split, *, seed: int, view: int, epoch: int, size: int, spec: ViewSpec) -> Iterator[Batch]:
    """One epoch over one view: its pairs, shuffled by the epoch's key. A last batch that is not full is left out,
    unless it is the only one."""
    laid_out = order(seed, split.ids, view)
    pairs = torch.arange(len(laid_out) // 2 * 2, device=laid_out.device).unflatten(0, (-1, 2))
    pairs = pairs[order(seed_of(seed, "epoch"), split.ids[laid_out[pairs[:, 0]]], epoch)]
    chunks = [chunk.flatten() for chunk in pairs[: steps_of_epoch(split, size) * (size // 2)].split(size // 2)]
    samples = [laid_out[places] for places in chunks]
    together = RENDERED_AT_ONCE // (size * math.prod(split.images.size)) if split.ids.is_cuda else 1
    views = _rendered(split, samples, max(1, together), seed=seed, view=view, spec=spec)
    yield from map(Batch, samples, chunks, views)


def _rendered(
    split: Split, batches: list[Tensor], together: int, *, seed: int, view: int, spec: ViewSpec
) -> Iterator[View]:
    """The view of each batch of indices, so many batches rendered `together`: a view is the same in any batch."""
    groups = [batches[start : start + together] for start in range(0, len(batches), together)]
    wanted = [torch.cat(group) for group in groups]
    for group, indices, images in zip(groups, wanted, split.images.feed(wanted, split.ids.device), strict=True):
        rendered = render(images, split.ids[indices], seed=seed, view=view, spec=spec)
        sizes = [len(batch) for batch in group]
        yield from map(View, rendered.pixels.split(sizes), rendered.own.split(sizes))


def steps_of_epoch(split: Split, size: int) -> int:
    """Return how many batches of `size` an epoch has."""
    return max(1, len(split) // size)


def fit(
    model: nn.Module,
    split: Split,
    data: Dataset,
    training: Training,
    plan: Callable[[int], EpochPlan],
    *,
    preprocessing: Preprocessing,
    spec: ViewSpec,
    extra: ExtraSpec = NOTHING_EXTRA,
    seed: int,
    run: Path,
    stage: str,
    device: torch.device,
    progress: Progress,
) -> nn.Module:
    """Train `model` and return it with its averaged weights, in evaluation mode.

    Checkpoints in `run / stage` follow whole epochs, so often that a kill costs one epoch or `LOST_AT_MOST` seconds.
    Called again after a kill, it goes on from the last one, and ends with the very weights that an undisturbed run
    would have had (on the CPU to the bit).

    Args:
        split: what it is trained on; `data` has what it is judged by.
        plan: for every epoch, the view that it shows and what is to be minimised on it.
        preprocessing: the model's own.
        spec, seed: of the views; `extra`: what this model alone sees on top of them.
        stage: names the run's part, as `teachers/conv` or `student`.

    Raises:
        Diverged: the loss is not a number any more, or has doubled; a checkpoint before it stays.
        OutOfMemory: a batch is too large for the device; a checkpoint before it stays.
    """
    train = to_device(split, device, progress)
    validation = to_device(data.validation, device, progress)
    classes = len(data.labels)
    steps = steps_of_epoch(train, training.batch)

    learner = Learner(model, training, steps, device)
    checkpoint = run / stage / "checkpoint.safetensors"
    done = learner.load(checkpoint)

    start_loss, saved = first_loss(run, stage), time.perf_counter()
    progress.begin(f"training {stage}", steps * training.epochs)
    progress.step(steps * done)
    try:
        with Metrics(run, stage, done) as metrics:
            for epoch in range(done, training.epochs):
                torch.manual_seed(seed_of(seed, "depth", epoch))  # stochastic depth is all that draws from it
                started, total = time.perf_counter(), torch.zeros((), device=device)
                view, objective = plan(epoch)
                shown = batches(train, seed=seed, view=view, epoch=epoch, size=training.batch, spec=spec)
                for step, batch in enumerate(shown, start=epoch * steps):
                    samples = train.ids[batch.indices]
                    pixels = enhance(batch.view.pixels, samples, seed=seed, epoch=epoch, spec=extra)
                    targets = batch.view.targets(train.labels[batch.indices], classes, training.smoothing)
                    loss_of = partial(_total, objective, targets, batch)
                    total += learner.step(step, to_input(pixels, preprocessing), loss_of)
                    if step % CHECK_EVERY == 0:
                        _check_loss(total.item(), None, stage, epoch)
                    progress.step()
                mean_loss = total.item() / steps
                start_loss = start_loss or mean_loss
                _check_loss(mean_loss, start_loss, stage, epoch)
                seconds = time.perf_counter() - started
                answers = logits_of(learner.average, validation, preprocessing, training.precision)
                accuracy = top1(answers, validation.labels)
                metrics.row(
                    epoch,
                    loss=mean_loss,
                    validation_top1=accuracy,
                    lr=learner.lr,
                    seconds=seconds,
                    samples_per_second=steps * min(training.batch, len(train)) / seconds,
                )
                now = time.perf_counter()
                if epoch + 1 == training.epochs or now - saved + (now - started) > LOST_AT_MOST:
                    learner.save(checkpoint, epoch + 1)
                    saved = time.perf_counter()
                progress.step(0, f"loss {mean_loss:.3f}, validation {accuracy:.1%}")
    except torch.OutOfMemoryError:
        pass  # the next line is outside of it, where what the step held is free again
    else:
        progress.end(f"validation {accuracy:.1%}" if done < training.epochs else "")
        return learner.average.eval()
    raise _out_of_memory(learner, training, preprocessing, stage)


def _total(objective: Objective, targets: Tensor, batch: Batch, output: Tensor) -> Tensor:
    return sum(objective(output, targets, batch).values())


def _check_loss(loss: float, start: float | None, stage: str, epoch: int) -> None:
    if not math.isfinite(loss):
        what = f"is {loss}"
    elif start is not None and loss > 2 * start:
        what = f"rose to {loss:.3g} from {start:.3g} in the first epoch"
    else:
        return
    raise Diverged(
        f"{stage}: the loss {what} in epoch {epoch + 1}; what was kept before it stays; "
        "lower its training.lr or clip and take another --out"
    )


def _out_of_memory(learner: Learner, training: Training, preprocessing: Preprocessing, stage: str) -> OutOfMemory:
    height, width = preprocessing.input.height, preprocessing.input.width
    fits = learner.affordable(training.batch, height, width)
    table = "student" if stage.split("/")[0] in ("student", "arms") else stage.replace("/", ".")
    mend = f"{fits} fit: set {table}.training.batch = {fits}" if fits else "nor for any smaller one: take a smaller net"
    return OutOfMemory(
        f"{stage}: {learner.device} has no memory for a batch of {training.batch} pictures of {height}x{width}; "
        f"{mend}, and another --out"
    )

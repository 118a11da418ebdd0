"""The training loop, read from top to bottom; teachers and students both go through it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from .checkpoint import load_progress, save_progress
from .data import Dataset, Split, to_input
from .errors import Diverged
from .evaluate import logits_of, top1
from .metrics import Metrics
from .recipe import Training
from .views import View, ViewSpec, order, render, seed_of
from .watch import Watch


class Batch(NamedTuple):
    """Some samples of one view: `indices` into the split, int64 [B]; their `places` in the view's keyed order."""

    indices: Tensor
    places: Tensor
    view: View


Objective = Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]
"""(the model's output, soft labels [B, C], the samples' places in the view's order [B]) -> named losses."""


class Plan(NamedTuple):
    """What one epoch shows: the number of its view, and the objective for it."""

    view: int
    objective: Objective


def batches(split: Split, *, seed: int, view: int, epoch: int, size: int, spec: ViewSpec) -> Iterator[Batch]:
    """One epoch over one view: its pairs, shuffled by the epoch's key. A last batch that is not full is left out,
    unless it is the only one."""
    laid_out = order(seed, split.ids, view)
    pairs = torch.arange(len(laid_out) // 2 * 2, device=laid_out.device).unflatten(0, (-1, 2))
    pairs = pairs[order(seed_of(seed, "epoch"), split.ids[laid_out[pairs[:, 0]]], epoch)]
    for chunk in pairs[: _steps(split, size) * (size // 2)].split(size // 2):
        places = chunk.flatten()
        indices = laid_out[places]
        rendered = render(split.images[indices], split.ids[indices], seed=seed, view=view, spec=spec)
        yield Batch(indices, places, rendered)


def _steps(split: Split, size: int) -> int:
    return max(1, len(split) // size)


def fit(
    model: nn.Module,
    data: Dataset,
    training: Training,
    plan: Callable[[int], Plan],
    *,
    spec: ViewSpec,
    seed: int,
    run: Path,
    stage: str,
    device: torch.device,
    watch: Watch,
) -> nn.Module:
    """Train `model` and return it with its averaged weights, in evaluation mode.

    Every epoch ends with a checkpoint in `run / stage`; called again after a kill, it goes on from there, and ends
    with the very weights that an undisturbed run would have had (on the CPU to the bit).

    Args:
        plan: for every epoch, the view that it shows and what is to be minimised on it.
        spec, seed: of the views.
        stage: names the run's part, as `teachers/conv` or `student`.

    Raises:
        Diverged: the loss is not a number any more; the last checkpoint stays.
    """
    train = data.train.to(device)
    validation = data.validation.to(device)
    classes = len(data.labels)
    steps = _steps(train, training.batch)

    model = model.to(device, memory_format=torch.channels_last).train()
    average = ModelEmaV3(model, decay=training.ema, use_warmup=True)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=training.lr, weight_decay=training.weight_decay)
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=max(1, steps * training.epochs),
        lr_min=training.lr / 100,
        warmup_t=round(steps * min(training.warmup, training.epochs / 2)),
        warmup_lr_init=training.lr / 100,
        t_in_epochs=False,
    )
    checkpoint = run / stage / "checkpoint.safetensors"
    models = {"model": model, "average": average.module}
    done = load_progress(checkpoint, models, optimizer)

    watch.begin(f"training {stage}", steps * training.epochs)
    watch.step(steps * done)
    with Metrics(run, stage, done) as metrics:
        for epoch in range(done, training.epochs):
            torch.manual_seed(seed_of(seed, stage, epoch))  # stochastic depth is all that draws from it
            started, total = time.perf_counter(), torch.zeros((), device=device)
            view, objective = plan(epoch)
            for step, batch in enumerate(
                batches(train, seed=seed, view=view, epoch=epoch, size=training.batch, spec=spec), start=epoch * steps
            ):
                schedule.step_update(step)
                inputs = to_input(batch.view.pixels, data.preprocessing)
                targets = batch.view.targets(train.labels[batch.indices], classes, training.smoothing)
                with autocast(training.precision, device):
                    output = model(inputs)
                loss = sum(objective(output.float(), targets, batch.places).values())
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), training.clip)
                optimizer.step()
                average.update(model, step)
                total += loss.detach()
                watch.step()
            mean_loss = total.item() / steps
            if not math.isfinite(mean_loss):
                raise Diverged(
                    f"{stage}: the loss is {mean_loss} in epoch {epoch + 1}; lower its training.lr and run again"
                )
            seconds = time.perf_counter() - started
            accuracy = top1(logits_of(average.module, validation, data.preprocessing), validation.labels)
            metrics.row(
                epoch,
                loss=mean_loss,
                validation_top1=accuracy,
                lr=optimizer.param_groups[0]["lr"],
                seconds=seconds,
                samples_per_second=steps * min(training.batch, len(train)) / seconds,
            )
            save_progress(checkpoint, epoch + 1, models, optimizer)
            watch.step(0, f"loss {mean_loss:.3f}, validation {accuracy:.1%}")
    watch.end(f"validation {accuracy:.1%}" if done < training.epochs else "")
    return average.module.eval()


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """bf16 where it is asked for, or by `auto` where the device computes it in hardware."""
    if precision == "auto":
        precision = "bf16" if _has_bf16(device) else "fp32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))

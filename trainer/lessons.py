"""The lessons of a net: the view that each epoch shows, and the loss that is minimised on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Protocol

import msgspec
import torch
from torch import Tensor

from .arms import Arm, own_arm
from .data import Dataset
from .logits import Form, Header, LogitStore
from .loop import Batch, EpochPlan, Objective
from .losses import Teaching, distillation, labels_alone, soft_cross_entropy
from .models import Teacher
from .recipe import Recipe
from .run import LOGITS, Run, other_store

ALL_LOGITS_UP_TO, TOP_K = 1000, 100
"""Up to this many classes all logits are stored; with more classes, this many of each answer."""


class Lessons(Protocol):
    """A source of lessons: it decides what a net is taught in each epoch."""

    def epoch(self, number: int) -> EpochPlan:
        """Return the view and the objective of an epoch, counted from 0."""


class StoredLessons:
    """A student learns from the teachers' stored answers. The stored views are shown in turn.

    Args:
        arm: the student that is taught.
        store: the store of its teachers' answers; see `open_store`.
        device: where the student is trained.
    """

    def __init__(self, arm: Arm, store: LogitStore, device: torch.device) -> None:
        self._views, self._objective = arm.stored_views, _learning_from(arm.teaching())
        self._columns = torch.tensor([list(store.header.teachers).index(name) for name in arm.teachers], device=device)
        self._answers_for = _answers_in(store, device, arm.recipe.data.lanes)

    def epoch(self, number: int) -> EpochPlan:
        view = number % self._views
        answers = self._answers_for(view)

        return EpochPlan(view, self._objective, lambda batch: answers(batch.rows.places)[:, self._columns])


def _answers_in(store: LogitStore, device: torch.device, lanes: int) -> Callable[[int], Callable[[Tensor], Tensor]]:
    """Return a function that returns, for a view, a function that returns the answers at some of its places."""
    if store.header.shards is not msgspec.UNSET:  # a lane walks from unit to unit
        return partial(store.read_by_unit, device=device, kept=lanes + 2)
    # A GPU keeps the views that it was given as long as there is room. A CPU has the files in its page cache.
    kept = store.resident_views(device) if device.type == "cuda" else 0
    return lru_cache(kept)(lambda view: store.read(view, device).at)


class OnlineLessons:
    """A student learns from teachers that answer while it is trained. Every epoch shows a new view.

    Args:
        arm: the student that is taught.
        teachers: the trained teachers by name.
    """

    def __init__(self, arm: Arm, teachers: Mapping[str, Teacher]) -> None:
        self._teachers, self._objective = [teachers[name] for name in arm.teachers], _learning_from(arm.teaching())

    def epoch(self, number: int) -> EpochPlan:
        return EpochPlan(number, self._objective, self._answers)

    @torch.no_grad()
    def _answers(self, batch: Batch) -> Tensor:
        return torch.stack([teacher.answer(batch.view.pixels) for teacher in self._teachers], dim=1)


class LabelLessons:
    """A student learns from the labels alone, with all of its heads. Every epoch shows a new view."""

    def epoch(self, number: int) -> EpochPlan:
        return EpochPlan(number, _labels_for_all_heads)


class TeacherLessons:
    """A teacher learns from the labels. Every epoch shows a new view."""

    def epoch(self, number: int) -> EpochPlan:
        return EpochPlan(number, _labels)


def _learning_from(teaching: Teaching) -> Objective:
    def objective(logits: Tensor, targets: Tensor, answers: Tensor | None) -> dict[str, Tensor]:
        assert answers is not None
        return distillation(logits, targets, answers, teaching)

    return objective


def _labels_for_all_heads(logits: Tensor, targets: Tensor, answers: Tensor | None) -> dict[str, Tensor]:
    return labels_alone(logits, targets)


def _labels(logits: Tensor, targets: Tensor, answers: Tensor | None) -> dict[str, Tensor]:
    return {"labels": soft_cross_entropy(logits, targets)}


def open_store(run: Run, data: Dataset, arm: Arm, teachers: Mapping[str, Teacher]) -> LogitStore:
    """Return the store that `arm` learns from, filled or not: the run's own, or another for other views or images.

    Raises:
        StoreError: the folder holds a store that was made for something else.
    """
    split, form = arm.split(data), stored_form(arm.recipe, len(data.labels))
    header = Header(
        spec=arm.spec,
        spec_hash=arm.spec.hash(),
        data=split.hash(),
        seed=arm.recipe.seed,
        samples=len(split),
        classes=form.classes,
        dtype=form.dtype,
        top_k=form.top_k,
        shards=msgspec.UNSET if split.unit_sizes is None else split.unit_sizes,
        teachers={name: teacher.hash() for name, teacher in teachers.items()},
    )
    return LogitStore(run.folder / _store_name(run, data, arm), header, arm.stored_views)


def stored_form(recipe: Recipe, classes: int) -> Form:
    """Return what is stored of each answer."""
    top_k = recipe.views.top_k
    if top_k is None:
        top_k = 0 if classes <= ALL_LOGITS_UP_TO else TOP_K
    return Form(classes, top_k if top_k < classes else 0, "int8" if recipe.views.bits == 8 else "float16")


def _store_name(run: Run, data: Dataset, arm: Arm) -> str:
    own, views = own_arm(run.recipe), arm.recipe.views
    same_images = arm.unlabelled or data.unlabelled is None
    same_form = (views.top_k, views.bits) == (own.recipe.views.top_k, own.recipe.views.bits)
    if arm.spec == own.spec and same_form and same_images:
        return LOGITS
    form = stored_form(arm.recipe, len(data.labels))
    what = [arm.spec, form.top_k, same_images, *([form.dtype] if views.bits == 8 else [])]
    return other_store(hashlib.sha256(msgspec.json.encode(what)).hexdigest()[:8])

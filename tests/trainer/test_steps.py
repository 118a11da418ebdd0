"""A step launches few operations, and the host never reads a value from the device, as that would empty its queue.

No GPU is needed. Up to the loss, torch's fake tensors claim to be on a GPU and take the same paths as real ones. The
backward pass, the optimiser and the average run on the CPU, in the form that they have on a GPU.
"""

from collections import Counter
from functools import partial

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import trainer.learner
from trainer.arms import own_arm
from trainer.data import MemoryImages, Preprocessing, Rows, Split, to_input
from trainer.data.inputs import _statistics
from trainer.learner import Learner
from trainer.lessons import OnlineLessons
from trainer.logits import Answers, Form
from trainer.loop import Batch, batches
from trainer.losses import ENSEMBLES, LOSSES, Teaching, distillation, labels_alone
from trainer.models import create_student, create_teacher
from trainer.recipe import StudentRecipe, Training
from trainer.views import ExtraSpec, View, ViewSpec, enhance, render
from trainer.views.view import _beta_quantiles

BATCH, CLASSES, SIZE = 16, 10, 32
CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
MEASURED = {
    "a view of everything": 1076,
    "an epoch of 64 batches": 1234,
    "the labels and the input": 25,
    "the default loss": 35,
    "any loss": 129,
    "the update": 17,
}
BUDGET = {name: 1.1 * operations for name, operations in MEASURED.items()}
READS = {"_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero", "unique_dim", "_unique2"}
NAMES_ONLY = {"device", "view", "_unsafe_view", "unsqueeze", "squeeze", "expand", "permute", "transpose", "t", "slice"}
NAMES_ONLY |= {"select", "split", "split_with_sizes", "unbind", "detach", "alias", "as_strided", "lift_fresh"}


class Unread(TorchDispatchMode):
    """Count the dispatched operations, without those that only give another name to memory.

    An operation that moves a value from the device to the host, or the other way, is an error: both wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.__name__.split(".")[0]
        if name in READS:
            raise AssertionError(f"{name}: the host reads a value of the device")
        out = operation(*args, **(kwargs or {}))
        if "copy" in name:
            places = {leaf.device.type for leaf in tree_leaves((args, out)) if isinstance(leaf, Tensor)}
            if len(places) > 1:
                raise AssertionError(f"{name}: a copy between {' and '.join(sorted(places))}")
        if name not in NAMES_ONLY:
            self.counts[name] += 1
        return out

    @property
    def total(self) -> int:
        return sum(self.counts.values())


@pytest.fixture
def pretended():
    """Inside, tensors may be on a GPU that does not exist: they have shapes but no values."""
    caches = (_statistics, _beta_quantiles)
    for cache in caches:
        cache.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield
    for cache in caches:
        cache.cache_clear()


def images_of(count: int, device: torch.device = GPU) -> Split:
    numbers = torch.arange(count, device=device)
    images = torch.zeros(count, SIZE, SIZE, 3, dtype=torch.uint8, device=device)
    return Split(MemoryImages(images), numbers % CLASSES, numbers, [str(number) for number in range(count)])


def used(work, *arguments) -> Unread:
    """Return what `work` dispatches the second time, when its cached tables exist."""
    work(*arguments)
    with Unread() as seen:
        work(*arguments)
    return seen


EVERYTHING = ViewSpec(
    shift=0.1, scale=(0.5, 1.0), ratio=(0.75, 1.3333), flip=0.5, rotate=10.0, brightness=0.2, contrast=0.2,
    saturation=0.2, operations=2, erase=0.25, mixup=0.8, cutmix=1.0,
)  # fmt: skip


@pytest.mark.parametrize(
    "spec",
    [
        ViewSpec(),
        EVERYTHING,
        replace(EVERYTHING, operations=1, magnitude="uniform", fill="border"),
        *(
            ViewSpec(**{name: getattr(EVERYTHING, name)})
            for name in ("shift", "scale", "flip", "rotate", "brightness", "contrast", "saturation", "operations")
        ),
        *(ViewSpec(**{name: getattr(EVERYTHING, name)}) for name in ("erase", "mixup", "cutmix")),
    ],
    ids=lambda spec: "-".join(k for k in spec.__struct_fields__ if getattr(spec, k) != getattr(ViewSpec(), k)) or "off",
)
def test_no_option_of_a_view_reads_the_device(spec, pretended):
    """Neither rendering a view nor making the net's input and the labels of it does."""
    split, preprocessing = images_of(BATCH), Preprocessing.square(SIZE)

    def shown():
        view = render(split.pixels(), split.ids, seed=1, view=2, spec=spec)
        return to_input(view.pixels, preprocessing), view.targets(split.labels, CLASSES, 0.1)

    seen = used(shown)
    if spec == EVERYTHING:
        assert seen.total <= BUDGET["a view of everything"]


def test_labels_and_input_of_a_batch_are_few_operations(pretended):
    split, preprocessing = images_of(BATCH), Preprocessing.square(SIZE)
    view = render(split.pixels(), split.ids, seed=1, view=2, spec=EVERYTHING)

    def prepared():
        return to_input(view.pixels, preprocessing), view.targets(split.labels, CLASSES, 0.1)

    assert used(prepared).total <= BUDGET["the labels and the input"]


@pytest.mark.parametrize("field", ExtraSpec.__struct_fields__)
def test_no_extra_reads_the_device(field, pretended):
    split = images_of(BATCH)
    pixels = torch.zeros(BATCH, 3, SIZE, SIZE, device=GPU)
    used(lambda: enhance(pixels, split.ids, seed=1, epoch=2, spec=ExtraSpec(**{field: 0.5})))


def filled(form: Form) -> dict[str, Tensor]:
    both = torch.randn(2, 64, CLASSES)
    stored = [form.unpack(form.pack(logits)) for logits in both]
    return {name: torch.stack([parts[name] for parts in stored], dim=1) for name in form.parts}


FORMS = {f"{dtype}, top {k}": Form(CLASSES, k, dtype) for dtype in ("float16", "int8") for k in (0, 3)}
STORED = {name: filled(form) for name, form in FORMS.items()}
"""Answers in all forms. They are made here, because no GPU has a part in it."""


def answers(name: str, device: torch.device) -> Answers:
    return Answers(FORMS[name], {part: tensor.to(device) for part, tensor in STORED[name].items()})


@pytest.mark.parametrize("stored", FORMS)
def test_stored_answers_are_few_operations(stored, pretended):
    kept, places = answers(stored, GPU), torch.arange(BATCH, device=GPU)
    assert used(lambda: kept.at(places)).total <= (18 if FORMS[stored].dtype == "int8" else 10)


@pytest.mark.parametrize("stored", ["float16, top 0", "float16, top 3"])
@pytest.mark.parametrize("ensemble", ENSEMBLES)
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_no_loss_reads_the_device(loss, standardize, ensemble, stored, pretended):
    teaching = Teaching(
        names=("one", "other"),
        weights=(1.0, 2.0),
        temperatures=(1.0, 4.0),
        loss=loss,
        standardize=standardize,
        ensemble=ensemble,
    )
    kept, logits = answers(stored, GPU), torch.zeros(BATCH, 3, CLASSES, device=GPU)
    places, targets = torch.arange(BATCH, device=GPU), torch.zeros(BATCH, CLASSES, device=GPU)
    seen = used(lambda: sum(distillation(logits, targets, kept.at(places), teaching).values()))
    is_default = (loss, standardize, ensemble, stored) == ("kl", False, "per-token", "float16, top 0")
    assert seen.total <= BUDGET["the default loss" if is_default else "any loss"]


def test_the_answers_of_online_teachers_are_not_read(tiny_recipe):
    """Teachers take the same paths on a CPU, except for the kernels of involution."""
    preprocessing = Preprocessing.square(SIZE)
    teachers = {name: create_teacher(it, CLASSES, preprocessing) for name, it in tiny_recipe.teachers.items()}
    online = replace(tiny_recipe, views=replace(tiny_recipe.views, mode="online"))
    _, objective, answers_to = OnlineLessons(own_arm(online), teachers).epoch(0)
    split = images_of(BATCH, CPU)
    batch = Batch(
        Rows(split.ids, split.ids, split.ids, split.labels), View(torch.rand(BATCH, 3, SIZE, SIZE), torch.ones(BATCH))
    )
    logits, targets = torch.randn(BATCH, 3, CLASSES), torch.full((BATCH, CLASSES), 1 / CLASSES)
    assert used(lambda: objective(logits, targets, answers_to(batch))).counts["convolution"] > 0


def test_an_epoch_renders_many_batches_at_once(pretended):
    """A view is hundreds of operations. Launching them takes the host longer than one batch of pixels takes the GPU."""
    split, steps = images_of(64 * BATCH), 64

    def epoch():
        return list(batches(split, seed=1, view=0, epoch=0, size=BATCH, spec=EVERYTHING))

    shown = epoch()
    assert len(shown) == steps
    assert all(batch.view.pixels.shape == (BATCH, 3, SIZE, SIZE) and batch.view.pixels.is_cuda for batch in shown)
    assert used(epoch).total <= BUDGET["an epoch of 64 batches"]


@pytest.mark.parametrize("loss", [*LOSSES, None])
def test_the_update_reads_nothing_and_is_few_operations(loss, monkeypatch):
    """The update is what clipping, optimiser and average add to the net and its gradient."""
    # In the form for a GPU, which torch also has for CPUs.
    monkeypatch.setattr(
        trainer.learner, "create_optimizer_v2", partial(as_on_a_gpu, trainer.learner.create_optimizer_v2)
    )
    preprocessing = Preprocessing.square(SIZE)
    shape = StudentRecipe(patch=8, width=32, depth=2, heads=2)
    learner = Learner(create_student(shape, 2, CLASSES, preprocessing), Training(precision="fp32"), 100, CPU)
    inputs, targets = torch.randn(BATCH, 3, SIZE, SIZE), torch.full((BATCH, CLASSES), 1 / CLASSES)
    teaching = Teaching(names=("one", "other"), weights=(1, 1), temperatures=(1, 2), loss=loss or "kl")
    kept, places = answers("float16, top 0", CPU), torch.arange(BATCH)

    def loss_of(output):
        if loss is None:
            return sum(labels_alone(output, targets).values())
        return sum(distillation(output, targets, kept.at(places), teaching).values())

    def alone():
        loss_of(learner.model(inputs)).backward()
        learner.model.zero_grad()

    seen = used(lambda: learner.step(5, inputs, loss_of))
    assert seen.counts["_fused_adamw_"] == 2  # with and without decay
    assert seen.counts["_foreach_lerp_"] == 1
    assert seen.total - used(alone).total <= BUDGET["the update"]


def as_on_a_gpu(create, model, **arguments):
    return create(model, **{**arguments, "fused": True})

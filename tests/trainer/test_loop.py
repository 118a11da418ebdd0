"""The training loop gives the same weights as a slow and obvious loop, and it copes with little memory."""

import pytest
import torch
from msgspec.structs import replace
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn
from torchvision.transforms.v2.functional import normalize

from jobs import Told, job_of
from trainer import loop
from trainer.arms import plain_arm
from trainer.data import to_device
from trainer.errors import OutOfMemory
from trainer.evaluate import logits_of
from trainer.learner import Learner
from trainer.losses import soft_cross_entropy
from trainer.models import create_teacher
from trainer.pipeline import train_arm
from trainer.recipe import Training
from trainer.run import Source, start_run
from trainer.train import train_teacher
from trainer.views import ViewSpec, order, render, seed_of

SPEC = ViewSpec(scale=(0.6, 1.0), flip=0.5, operations=2, erase=0.3, mixup=0.8, cutmix=1.0)
TRAINING = Training(epochs=3, batch=16, lr=1e-2, warmup=1.0, ema=0.9, precision="fp32")


def slow_fit(net, split, training, preprocessing, seed):
    """Train in the obvious way: one batch at a time, torchvision's normalisation, torch's AdamW, timm's average."""
    net = net.to(memory_format=torch.channels_last).train()
    average = ModelEmaV3(net, decay=training.ema, use_warmup=True)
    optimizer = create_optimizer_v2(net, opt="adamw", lr=training.lr, weight_decay=training.weight_decay, fused=True)
    steps = len(split) // training.batch
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=steps * training.epochs,
        lr_min=training.lr / 100,
        warmup_t=round(steps * training.warmup),
        warmup_lr_init=training.lr / 100,
        t_in_epochs=False,
    )
    number = 0
    for epoch in range(training.epochs):
        laid_out = order(seed, split.ids, epoch)
        pairs = [(2 * i, 2 * i + 1) for i in range(len(split) // 2)]
        firsts = split.ids[laid_out[[first for first, _ in pairs]]]
        shuffled = [pairs[i] for i in order(seed_of(seed, "epoch"), firsts, epoch).tolist()]
        for step in range(steps):
            places = [
                p for pair in shuffled[step * training.batch // 2 : (step + 1) * training.batch // 2] for p in pair
            ]
            rows = laid_out[places]
            view = render(split.pixels()[rows], split.ids[rows], seed=seed, view=epoch, spec=SPEC)
            inputs = normalize(view.pixels, list(preprocessing.mean), list(preprocessing.std))
            schedule.step_update(number)
            loss = soft_cross_entropy(
                net(inputs.contiguous(memory_format=torch.channels_last)).float(),
                view.targets(split.labels[rows], 3, training.smoothing),
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), training.clip)
            optimizer.step()
            average.update(net, number)
            number += 1
    return average.module


@pytest.fixture
def net_and_run(tiny_recipe, tiny_data, tmp_path):
    """A convolutional net, whose norms have integer buffers, and a run that trains it."""
    conv = replace(tiny_recipe.teachers["conv"], views=SPEC, training=TRAINING)
    recipe = replace(tiny_recipe, teachers={"conv": conv})
    run = start_run(tmp_path / "run", recipe, tiny_data, Source(("clothes",)))
    torch.manual_seed(seed_of(recipe.seed, "teach", "conv"))
    return create_teacher(conv, 3, tiny_data.preprocessing), run


@pytest.mark.parametrize("together", [1, 2, 100])
@pytest.mark.slow
def test_it_ends_with_the_same_weights_as_the_slow_loop(together, net_and_run, tiny_data, monkeypatch):
    untrained, run = net_and_run
    seed = seed_of(run.recipe.seed, "teach", "conv")
    expected = slow_fit(untrained.net, tiny_data.train, TRAINING, untrained.preprocessing, seed).state_dict()

    grouped = loop._grouped
    monkeypatch.setattr(loop, "_grouped", lambda rows, count: grouped(rows, together))
    ours = train_teacher(job_of(run, tiny_data), "conv").net.state_dict()
    assert any(not value.is_floating_point() for value in ours.values())
    for name, value in expected.items():
        assert torch.equal(ours[name], value), name


def test_an_epoch_is_evaluated_in_the_precision_of_its_training(net_and_run, tiny_data):
    teacher, _ = net_and_run
    exact, short = (logits_of(teacher.net, tiny_data.test, teacher.preprocessing, it) for it in ("fp32", "bf16"))
    assert exact.dtype == short.dtype == torch.float32
    assert 0 < (exact - short).abs().max() < 0.05 * exact.abs().max()


class Clock:
    """A clock that advances each time it is read."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def perf_counter(self) -> float:
        self.now += self.tick
        return self.now


@pytest.mark.parametrize(("tick", "kept"), [(0.001, [3]), (3.0, [2, 3]), (100.0, [1, 2, 3])])
def test_checkpoints_depend_on_time_if_epochs_are_short(tick, kept, net_and_run, tiny_data, monkeypatch):
    """The clock is read about twice in an epoch, which so takes 2 ms, 6 s, or 200 s."""
    _, run = net_and_run
    saved = []
    monkeypatch.setattr(Learner, "save", lambda self, path, position: saved.append(position.epoch))
    monkeypatch.setattr(loop, "time", Clock(tick))
    train_teacher(job_of(run, tiny_data), "conv")
    assert saved == kept


@pytest.mark.parametrize(
    ("room", "advice"),
    [
        (7, r"for a batch of 16 images of 28x28; 4 fit: set student\.training\.batch = 4, and another --out$"),
        (1, r"for a batch of 16 images of 28x28; nor for any smaller one: choose a smaller net, and another --out$"),
    ],
)
def test_a_batch_beyond_the_memory_is_refused_with_one_that_fits(
    room, advice, tiny_recipe, tiny_data, tmp_path, monkeypatch
):
    """The device has memory for `room` images."""
    step = Learner.step

    def in_little_room(self, number, inputs, loss_of):
        if len(inputs) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return step(self, number, inputs, loss_of)

    monkeypatch.setattr(Learner, "step", in_little_room)
    run = start_run(tmp_path / "run", tiny_recipe, tiny_data, Source(("clothes",)))
    with pytest.raises(OutOfMemory, match=r"arms/plain: cpu has no memory " + advice):
        train_arm(job_of(run, tiny_data), plain_arm(run.recipe))


def test_images_that_exceed_a_gpus_memory_stay_with_the_host_and_teach_the_same(net_and_run, tiny_data, monkeypatch):
    _, run = net_and_run
    progress = Told()
    resident = train_teacher(job_of(run, tiny_data, progress), "conv").net.state_dict()
    assert progress.lines == []

    monkeypatch.setitem(to_device.__globals__, "free_bytes", lambda device: 200_000)
    other = start_run(run.folder.with_name("other"), run.recipe, tiny_data, Source(("clothes",)))
    behind = train_teacher(job_of(other, tiny_data, progress), "conv").net.state_dict()
    assert all(torch.equal(resident[name], behind[name]) for name in resident)
    assert progress.lines == [f"{len(tiny_data.train)} images, 155 kB, stay in the host's memory: cpu has 200 kB free"]

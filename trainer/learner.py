"""A net and what moves it: the optimiser, its schedule, the average of the weights. One `step` is one update."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from .checkpoint import load_progress, save_progress
from .device import autocast
from .recipe import Training


class Learner:
    """Trains `model` on `device` as `training` says, `steps` updates an epoch.

    Attributes:
        model: in training mode.
        average: of its weights over the steps; what counts in it (the batches that a norm has seen) is the model's.
    """

    def __init__(self, model: nn.Module, training: Training, steps: int, device: torch.device) -> None:
        self.training, self.device = training, device
        self.model = model.to(device, memory_format=torch.channels_last).train()
        self._ema = ModelEmaV3(self.model, decay=training.ema, use_warmup=True)
        if training.compile:
            self.model.compile()
        self._optimizer = create_optimizer_v2(
            self.model,
            opt="adamw",
            lr=training.lr,
            weight_decay=training.weight_decay,
            fused=device.type == "cuda",  # one launch for all tensors
        )
        self._schedule = CosineLRScheduler(
            self._optimizer,
            t_initial=max(1, steps * training.epochs),
            lr_min=training.lr / 100,
            warmup_t=round(steps * min(training.warmup, training.epochs / 2)),
            warmup_lr_init=training.lr / 100,
            t_in_epochs=False,
        )
        # Collected once: to walk through the modules of both nets in every step is work for the host alone.
        self._averaged, self._trained = (_floating(net) for net in (self._ema.module, self.model))

    @property
    def average(self) -> nn.Module:
        for kept, counted in zip(self._ema.module.buffers(), self.model.buffers(), strict=True):
            if not kept.is_floating_point():
                kept.copy_(counted)
        return self._ema.module

    @property
    def lr(self) -> float:
        return self._optimizer.param_groups[0]["lr"]

    def step(self, number: int, inputs: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
        """The update `number` of the whole training; the loss before it, without a gradient.

        Args:
            inputs: float32 [B, 3, H, W], as the model takes them.
            loss_of: from the model's float32 output to a scalar.
        """
        self._schedule.step_update(number)
        self._optimizer.zero_grad()  # before the forward pass, which may need the memory
        with autocast(self.training.precision, self.device):
            output = self.model(inputs)
        loss = loss_of(output.float())
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip)
        self._optimizer.step()
        torch._foreach_lerp_(self._averaged, self._trained, weight=1 - self._ema.get_decay(number))
        return loss.detach()

    def affordable(self, batch: int, height: int, width: int) -> int:
        """Return the largest half, quarter, ... of `batch` that a step has memory for, 0 if there is none.

        It takes real steps, on black images: the net is of no use afterwards.
        """
        while (batch := batch // 4 * 2) >= 2:  # pairs stay together
            torch.cuda.empty_cache()
            inputs = torch.zeros(batch, 3, height, width, device=self.device)
            with suppress(torch.OutOfMemoryError):
                self.step(0, inputs, torch.mean)
                return batch
        return 0

    def save(self, path: Path, epoch: int) -> None:
        """Keep all that is needed to go on after `epoch` epochs; the schedule follows from the recipe."""
        save_progress(path, epoch, {"model": self.model, "average": self.average}, self._optimizer)

    def load(self, path: Path) -> int:
        """Go on from what `save` kept; the epochs that were done, 0 where nothing was."""
        return load_progress(path, {"model": self.model, "average": self.average}, self._optimizer)


def _floating(net: nn.Module) -> list[Tensor]:
    """Return the values of `net` that can be averaged, sharing their memory."""
    return [value for value in net.state_dict().values() if value.is_floating_point()]

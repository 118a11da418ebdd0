"""A net and everything that changes its weights: the optimiser, its schedule, the average of the weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar, cast

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from .checkpoint import load_progress, save_progress
from .device import autocast
from .recipe import Training
from .tensors import TensorFile

Net = TypeVar("Net", bound=nn.Module)


class Learner(Generic[Net]):
    """Train `model` on `device` with the schedule of `training`, for `steps` updates in each epoch.

    Attributes:
        model: the net, in training mode.
        average: the net with the average of its weights over the steps. Its integer buffers, such as the number of
            batches that a norm has seen, are those of `model`.
        lr: the learning rate of the last step.
    """

    def __init__(self, model: Net, training: Training, steps: int, device: torch.device) -> None:
        self.training, self.device = training, device
        self.model = cast(Net, model.to(device=device, memory_format=torch.channels_last).train())  # type: ignore[call-overload]
        self._ema = ModelEmaV3(self.model, decay=training.ema, use_warmup=True)
        if training.compile:
            self.model.compile()
        self._optimizer: torch.optim.Optimizer = create_optimizer_v2(
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
        # Collected once: walking through the modules of both nets in every step would cost the host time.
        self._averaged, self._trained = (_floating(net) for net in (self._ema.module, self.model))

    @property
    def average(self) -> Net:
        for kept, counted in zip(self._ema.module.buffers(), self.model.buffers(), strict=True):
            if not kept.is_floating_point():
                kept.copy_(counted)
        return cast(Net, self._ema.module)

    @property
    def lr(self) -> float:
        return cast(float, self._optimizer.param_groups[0]["lr"])

    def step(self, number: int, inputs: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Do update `number` of the whole training, and return the loss before it, without a gradient.

        Args:
            inputs: float32 [B, 3, H, W], as the model takes them.
            loss_of: gives a scalar loss for the model's float32 output.
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
        """Return the largest of `batch` / 2, / 4, ... for which a step has enough memory, or 0 if there is none.

        The steps are real ones, on black images: the net must not be used afterwards.
        """
        while (batch := batch // 4 * 2) >= 2:  # pairs stay together
            torch.cuda.empty_cache()
            inputs = torch.zeros(batch, 3, height, width, device=self.device)
            with suppress(torch.OutOfMemoryError):
                self.step(0, inputs, torch.mean)
                return batch
        return 0

    def save(self, file: TensorFile, epoch: int) -> None:
        """Write everything that is needed to continue after `epoch` epochs."""
        save_progress(file, epoch, {"model": self.model, "average": self.average}, self._optimizer)

    def load(self, file: TensorFile) -> int:
        """Restore what `save` wrote. Return the number of finished epochs, 0 if there is no such file."""
        return load_progress(file, {"model": self.model, "average": self.average}, self._optimizer)


def _floating(net: nn.Module) -> list[Tensor]:
    """Return the floating-point values of `net`, which are averaged; the tensors share the net's memory."""
    return [value for value in net.state_dict().values() if value.is_floating_point()]

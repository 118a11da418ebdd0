"""A net and what moves it: the optimiser, its schedule, the average of the weights. One `step` is one update."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from .checkpoint import load_progress, save_progress
from .recipe import Training


class Learner:
    """Trains `model` on `device` as `training` says, `steps` updates an epoch.

    Attributes:
        model: in training mode.
        average: of its weights over the steps.
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
            # one launch for all tensors, and its counts lie on the device; the CPU keeps its form, and its bits
            **({"fused": True} if device.type == "cuda" else {}),
        )
        self._schedule = CosineLRScheduler(
            self._optimizer,
            t_initial=max(1, steps * training.epochs),
            lr_min=training.lr / 100,
            warmup_t=round(steps * min(training.warmup, training.epochs / 2)),
            warmup_lr_init=training.lr / 100,
            t_in_epochs=False,
        )

    @property
    def average(self) -> nn.Module:
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
        with autocast(self.training.precision, self.device):
            output = self.model(inputs)
        loss = loss_of(output.float())
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip)
        self._optimizer.step()
        self._ema.update(self.model, number)
        return loss.detach()

    def save(self, path: Path, epoch: int) -> None:
        """Keep all that is needed to go on after `epoch` epochs; the schedule follows from the recipe."""
        save_progress(path, epoch, {"model": self.model, "average": self.average}, self._optimizer)

    def load(self, path: Path) -> int:
        """Go on from what `save` kept; the epochs that were done, 0 where nothing was."""
        return load_progress(path, {"model": self.model, "average": self.average}, self._optimizer)


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

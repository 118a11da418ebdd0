"""A net and everything that changes its weights: the optimiser, its schedule, the average of the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar, cast

import torch
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from . import parallel
from .checkpoint import Position, load_progress, save_progress
from .device import autocast
from .lanes import ONE_LANE, Lanes, prepared, same_everywhere, wrapped
from .recipe import Training
from .tensors import TensorFile

Net = TypeVar("Net", bound=nn.Module)


class Learner(Generic[Net]):
    """Train `model` on `device` with the schedule of `training`, for `steps` updates in each epoch.

    Args:
        new: the names of the parts of `model` that have no published weights. Everything else learns at
            `training.lr_scale`, and stays as it is in the epochs of `training.frozen`.

    Attributes:
        model: the net, in training mode.
        average: the net with the average of its weights over the steps. Its integer buffers, such as the number of
            batches that a norm has seen, are those of `model`.
        lr: the learning rate of the last step, of what is new.
    """

    def __init__(
        self,
        model: Net,
        training: Training,
        steps: int,
        device: torch.device,
        new: Sequence[str] = (),
        lanes: Lanes = ONE_LANE,
    ) -> None:
        self.training, self.device, self._new, self._lanes = training, device, new, lanes
        self._frozen_steps, self._is_frozen = steps * training.frozen, False
        model = cast(Net, prepared(model, device, lanes))
        self.model = cast(Net, model.to(device=device, memory_format=torch.channels_last).train())  # type: ignore[call-overload]
        self._ema = ModelEmaV3(self.model, decay=training.ema, use_warmup=True)
        if training.compile:
            self.model.compile()
        self._optimizer: torch.optim.Optimizer = create_optimizer_v2(
            self.model if training.lr_scale == 1 else self._groups(),
            opt="adamw",
            lr=training.lr,
            weight_decay=training.weight_decay,
            fused=True,  # one pass over all tensors, which on a GPU is one launch
        )
        self._schedule = CosineLRScheduler(
            self._optimizer,
            t_initial=max(1, steps * training.epochs),
            lr_min=training.lr / 100,
            warmup_t=round(steps * min(training.warmup, training.epochs / 2)),
            warmup_lr_init=training.lr / 100,
            t_in_epochs=False,
        )
        self._forward = wrapped(self.model, device)
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
        return max(cast(float, group["lr"]) for group in self._optimizer.param_groups)

    def step(self, number: int, inputs: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Do update `number` of the whole training, and return the loss before it, without a gradient.

        Args:
            inputs: float32 [B, 3, H, W], as the model takes them.
            loss_of: gives a scalar loss for the model's float32 output; that to the whole batch, if processes share it.
        """
        self._freeze(number < self._frozen_steps)
        self._schedule.step_update(number)
        self._optimizer.zero_grad()  # before the forward pass, which may need the memory
        with autocast(self.training.precision, self.device):
            output = self._forward(inputs)
        loss = loss_of(self._lanes.whole(output.float()))
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip)
        self._optimizer.step()
        torch._foreach_lerp_(self._averaged, self._trained, weight=1 - self._ema.get_decay(number))
        return loss.detach()

    def agree(self) -> None:
        """Give all processes the norms' statistics of the first one, whose weights they have already."""
        for net in (self.model, self._ema.module):
            same_everywhere(net)

    def affordable(self, batch: int, height: int, width: int) -> int:
        """Return the largest of `batch` / 2, / 4, ... for which a step has enough memory, or 0 if there is none.

        The steps are real ones, on black images: the net must not be used afterwards.
        """
        while (batch := batch // 4 * 2) >= 2:  # pairs stay together
            torch.cuda.empty_cache()
            inputs = torch.zeros(batch, 3, height, width, device=self.device)
            with suppress(torch.OutOfMemoryError):
                self.step(self._frozen_steps, inputs, torch.mean)  # what is frozen needs less memory
                return batch
        return 0

    def _groups(self) -> list[dict[str, Any]]:
        """Return timm's groups of parameters, with and without weight decay, each divided by learning rate."""
        exempt = cast(Callable[[], set[str]], getattr(self.model, "no_weight_decay", set))()
        new = {id(parameter) for name, parameter in self.model.named_parameters() if self._is_new(name)}
        return [
            {**group, "params": members, "lr_scale": scale}
            for group in param_groups_weight_decay(self.model, self.training.weight_decay, no_weight_decay_list=exempt)
            for wanted, scale in ((True, 1.0), (False, self.training.lr_scale))
            if (members := [parameter for parameter in group["params"] if (id(parameter) in new) is wanted])
        ]

    def _is_new(self, name: str) -> bool:
        return any(name == part or name.startswith(f"{part}.") for part in self._new)

    def _freeze(self, is_frozen: bool) -> None:
        """Let published weights and the statistics of their norms stay as they are, or learn again."""
        if is_frozen == self._is_frozen:
            return
        self._is_frozen = is_frozen
        for name, parameter in self.model.named_parameters():
            if not self._is_new(name):
                parameter.requires_grad_(not is_frozen)
        for name, module in self.model.named_modules():
            if name and not self._is_new(name):
                module.training = not is_frozen
        self._forward = wrapped(self.model, self.device)  # it waits for the gradients that there are

    def save(self, file: TensorFile, position: Position) -> None:
        """Write everything that is needed to continue from a position; the first process does it for all."""
        if parallel.is_first():
            save_progress(file, position, {"model": self.model, "average": self.average}, self._optimizer)

    def load(self, file: TensorFile) -> Position:
        """Restore what `save` wrote, and return the position: the beginning if there is no such file."""
        return load_progress(file, {"model": self.model, "average": self.average}, self._optimizer)


def _floating(net: nn.Module) -> list[Tensor]:
    """Return the floating-point values of `net`, which are averaged; the tensors share the net's memory."""
    return [value for value in net.state_dict().values() if value.is_floating_point()]

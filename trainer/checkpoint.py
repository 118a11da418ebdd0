"""The state of an unfinished training, as a file of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .tensors import TensorFile


class Position(NamedTuple):
    """The place that a training has reached.

    Attributes:
        epoch: the number of finished epochs.
        step: the number of steps of the next epoch that are done as well.
        loss: the sum of the losses of these steps.
        seconds: how long these steps took.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    seconds: float = 0.0


def save_progress(file: TensorFile, position: Position, models: Mapping[str, nn.Module], optimizer: Optimizer) -> None:
    """Write everything that a training needs to continue from a position.

    The state of the schedule is not written: it follows from the recipe and the number of the step.

    Raises:
        FileError: the disk is full, or the folder can't be written.
    """
    tensors = {f"{key}.{name}": value for key, model in models.items() for name, value in model.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": torch.as_tensor(value) for slot, value in slots.items()}
    facts = {name: repr(value) for name, value in position._asdict().items()}
    file.write({name: value.clone() for name, value in tensors.items()}, **facts)


def load_progress(file: TensorFile, models: Mapping[str, nn.Module], optimizer: Optimizer) -> Position:
    """Restore what `save_progress` wrote, and return the position: the beginning if there is no such file.

    Raises:
        LibkdError: the file is damaged, or holds something else.
    """
    if not file.path.exists():
        return Position()
    tensors, facts = file.read()
    try:
        for key, model in models.items():
            prefix = f"{key}."
            own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            model.load_state_dict(own)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, slot = name.split(".")
                slots.setdefault(int(index), {})[slot] = _laid_out(value, parameters[int(index)])
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
        if "step" not in facts:  # written by an earlier version, after whole epochs
            return Position(int(facts["epoch"]))
        return Position(int(facts["epoch"]), int(facts["step"]), float(facts["loss"]), float(facts["seconds"]))
    except (IndexError, KeyError, ValueError, RuntimeError) as fault:  # written with another version of timm or torch
        raise file.refusal(str(fault)) from fault


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """Return a value of the optimiser's state with its parameter's layout in memory, which files do not keep.

    torch's fused optimisers need it: with another layout, they refuse to work on a GPU, and on a CPU they take the
    numbers of other places.
    """
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)

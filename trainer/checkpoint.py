"""Tensors on disk: safetensors files that are whole or absent, and the state of an unfinished training. No pickle."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from sdk.files import write_whole

from .errors import RunError


def write_tensors(path: Path, tensors: Mapping[str, Tensor], **about: str) -> None:
    """Write a safetensors file, whole or not at all, with `about` as its metadata."""
    # Not with save_file: only their owner may read the files that it makes.
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_whole(path, save(plain, metadata=about))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file and its metadata.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (it can't be iterated)
    except (OSError, SafetensorError) as fault:
        raise RunError(f"{path}: missing or damaged ({fault}); remove it and run the stage again") from fault


def weights_hash(model: nn.Module) -> str:
    """Return a hash of a model's weights and of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def save_progress(path: Path, epoch: int, models: Mapping[str, nn.Module], optimizer: Optimizer) -> None:
    """Write everything that a training needs to continue after `epoch` epochs.

    The state of the schedule is not written: it follows from the recipe and the number of the step.
    """
    tensors = {f"{key}.{name}": value for key, model in models.items() for name, value in model.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": torch.as_tensor(value) for slot, value in slots.items()}
    write_tensors(path, {name: value.clone() for name, value in tensors.items()}, epoch=str(epoch))


def load_progress(path: Path, models: Mapping[str, nn.Module], optimizer: Optimizer) -> int:
    """Restore what `save_progress` wrote. Return the number of finished epochs, 0 if there is no such file."""
    if not path.exists():
        return 0
    tensors, about = read_tensors(path)
    for key, model in models.items():
        prefix = f"{key}."
        model.load_state_dict({name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)})
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, slot = name.split(".")
            slots.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(about["epoch"])

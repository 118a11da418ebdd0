"""Files that are whole or absent: everything is written beside its place and renamed into it. No pickle anywhere."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from .errors import RunError


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], **about: str) -> None:
    """Write a safetensors file, whole, with `about` as its metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # not by save_file, whose files nobody but their owner may read
        plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        partial.write_bytes(save(plain, metadata=about))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file and its metadata.

    Raises:
        RunError: there is no such file, or it is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (it can't be iterated)
    except (OSError, SafetensorError) as fault:
        raise RunError(f"{path}: missing or damaged ({fault}); remove it and run the stage again") from fault


def read_json(path: Path) -> dict:
    """A JSON object from a file.

    Raises:
        RunError: there is no such file, or it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise RunError(f"{path}: missing or damaged ({fault}); run the stage again") from fault


def weights_hash(model: nn.Module) -> str:
    """Names the weights of a model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def save_progress(path: Path, epoch: int, models: Mapping[str, nn.Module], optimizer: Optimizer) -> None:
    """All that a training run needs to go on after `epoch` epochs; the schedule follows from the recipe."""
    tensors = {f"{key}.{name}": value for key, model in models.items() for name, value in model.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": torch.as_tensor(value) for slot, value in slots.items()}
    write_tensors(path, {name: value.clone() for name, value in tensors.items()}, epoch=str(epoch))


def load_progress(path: Path, models: Mapping[str, nn.Module], optimizer: Optimizer) -> int:
    """Put back what `save_progress` wrote; the epochs that were done, 0 where nothing was."""
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

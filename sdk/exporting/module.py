"""The module that is given to `export`: whether it can be lowered at all, and a copy that may be changed."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from runtimes.base import first_line

from ..errors import ExportError, UsageError


def check_module(module: object) -> None:
    """Raise `UsageError` for something that is no module, and `ExportError` for one that no engine takes."""
    if not isinstance(module, nn.Module):
        raise UsageError(f"module: {type(module).__name__} is not a torch.nn.Module; wrap it in one")
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise ExportError("the module is TorchScript; give the module from before torch.jit.script or torch.jit.trace")


def temperature_of(module: nn.Module) -> float:
    """Return the `temperature` that the module divides its logits by; 1.0 if it has none.

    Raises:
        UsageError: it is not one positive number.
    """
    value: Any = getattr(module, "temperature", 1.0)
    try:
        temperature = float(value)
    except (TypeError, ValueError, RuntimeError):
        temperature = math.nan
    if not 0 < temperature < math.inf:
        kind = f"of shape {list(value.shape)}" if isinstance(value, torch.Tensor) and value.ndim else repr(value)[:60]
        raise UsageError(
            f"the module's `temperature` is {kind}, and not one positive number; if it is something else, rename it"
        )
    return temperature


def changeable_copy(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU in float32 that shares nothing with the module and keeps no graph of gradients.

    Weights that are computed from others before each call, as by the old `weight_norm`, are computed once and kept.

    Raises:
        ExportError: the module can't be copied.
    """
    computed = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf  # torch refuses to copy it
    }
    try:
        copied = copy.deepcopy(module, computed).cpu().float()
        for part in copied.modules():
            for hook in list(part._forward_pre_hooks.values()):
                if isinstance(hook, WeightNorm):
                    remove_weight_norm(part, hook.name)
                elif isinstance(hook, SpectralNorm):
                    remove_spectral_norm(part, hook.name)
    except Exception as fault:
        raise ExportError(
            f"the module can't be copied ({first_line(fault)}); it has to be plain weights and torch operators"
        ) from fault
    return copied.requires_grad_(False)

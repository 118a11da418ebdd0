"""The abilities of a device: the arithmetic in which nets compute on it, and its free memory."""

from __future__ import annotations

import math
from typing import Literal

import torch

from .errors import RecipeError
from .parallel import local_rank

Precision = Literal["auto", "fp32", "bf16"]
"""The requested arithmetic. `auto` is bf16 on a device that computes it in hardware, else fp32."""

Arithmetic = Literal["fp32", "bf16"]


def pick_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is this process's CUDA device if there is one, else the CPU.

    Raises:
        RecipeError: there is no such device here, or there are more processes than GPUs.
    """
    if name == "auto" and not torch.cuda.is_available():
        return torch.device("cpu")
    if name in ("auto", "cuda") and local_rank() >= (count := torch.cuda.device_count()) > 0:
        raise RecipeError(
            f"more processes than GPUs, of which there are {count}; "
            "start one for each by --nproc-per-node, or add --device cpu"
        )
    if name == "auto":
        return torch.device(f"cuda:{local_rank()}")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, ValueError) as fault:
        first = str(fault).splitlines()[0]
        raise RecipeError(f"no device {name!r} here ({first}); leave --device out, or say cpu or cuda") from fault


def device_name(device: torch.device) -> str:
    """Return the name of a device as people know it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def devices_here(device: torch.device) -> int:
    """Return how many devices of this kind the machine has, each of which can have a process; a CPU counts as one."""
    return torch.cuda.device_count() if device.type == "cuda" else 1


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which a net computes at `precision` on `device`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=arithmetic(precision, device) == "bf16")


def arithmetic(precision: Precision, device: torch.device) -> Arithmetic:
    """Return the arithmetic that `precision` means on `device`."""
    if precision == "auto":
        return "bf16" if _has_bf16(device) else "fp32"
    return precision


def free_bytes(device: torch.device) -> float:
    """Return the free memory of a GPU in bytes. The memory of a CPU is not measured and counts as unlimited."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))

"""The arithmetic of a net: bf16 where it is asked for, or by `auto` where the device computes it in hardware."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]
Arithmetic = Literal["fp32", "bf16"]


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which a net computes at `precision` on `device`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=arithmetic(precision, device) == "bf16")


def arithmetic(precision: Precision, device: torch.device) -> Arithmetic:
    """Return what `precision` means on `device`."""
    if precision == "auto":
        return "bf16" if _has_bf16(device) else "fp32"
    return precision


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))

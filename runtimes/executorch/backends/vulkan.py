"""Vulkan, which computes on the GPUs of phones. It has no 8-bit integers as pixels: their cast stays outside of it."""

from __future__ import annotations

from runtimes.logs import unchanged_logging

with unchanged_logging():
    from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

from runtimes.rewrites import XNNPACK, XNNPACK_FP16

from . import Preparation


def preparation(precision: str) -> Preparation:
    """Return how a program is prepared for Vulkan: with the rewrites for XNNPACK, a transformer is one delegate."""
    halved = precision == "fp16"
    return Preparation(VulkanPartitioner(), halved, XNNPACK_FP16 if halved else XNNPACK)

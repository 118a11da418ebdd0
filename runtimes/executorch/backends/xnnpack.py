"""XNNPACK, which computes on CPUs."""

from __future__ import annotations

from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.utils.configs import get_transform_passes

from runtimes.rewrites import XNNPACK, XNNPACK_FP16

from . import Preparation


def preparation(precision: str) -> Preparation:
    """Return how a program is prepared for XNNPACK."""
    halved = precision == "fp16"
    return Preparation(XnnpackPartitioner(), halved, XNNPACK_FP16 if halved else XNNPACK, get_transform_passes())

"""Makes `model.pte`: static batch of one, as much as possible delegated to XNNPACK."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from runtimes.base import METADATA_KEY, Signature, lowering_refusals
from runtimes.rewrites import explicit_attention

from .session import FILE, quiet

with quiet(), warnings.catch_warnings():  # its import tells of pandas, pytrees and the CPU
    warnings.simplefilter("ignore")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.utils.configs import get_transform_passes
    from executorch.exir import to_edge_transform_and_lower

PRECISIONS = ("fp32",)


def lower(module: torch.nn.Module, *, signature: Signature, precision: str, manifest: str, folder: Path) -> None:
    example = torch.zeros(1, signature.height, signature.width, 3, dtype=torch.uint8)
    with lowering_refusals("ExecuTorch"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(explicit_attention(module), (example,))
        edge = to_edge_transform_and_lower(
            program,
            transform_passes=get_transform_passes(),
            partitioner=[XnnpackPartitioner()],
            constant_methods={METADATA_KEY: manifest},
        )
        (folder / FILE).write_bytes(edge.to_executorch().buffer)

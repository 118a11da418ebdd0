"""The lowering to `model.pt2`: a program for batches of any size, with the manifest as an extra file in it."""

from __future__ import annotations

from pathlib import Path

import torch

from runtimes.base import METADATA_KEY, Quantization, Signature, lowering_refusals


def lower(
    module: torch.nn.Module,
    *,
    signature: Signature,
    precision: str,
    backend: str | None,
    quantization: Quantization | None,
    manifest: str,
    folder: Path,
) -> None:
    """Write `model.pt2`; see `runtimes.base.Lowering`."""
    example = torch.zeros(2, signature.height, signature.width, 3, dtype=torch.uint8)
    with lowering_refusals("PyTorch", precision):
        program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.export.save(program, folder / "model.pt2", extra_files={METADATA_KEY: manifest})

"""The session that runs `model.pt2` with PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from runtimes.base import METADATA_KEY, Signature, check_signature, engine_failure, engine_failures


class Session:
    """A loaded program."""

    def __init__(self, folder: Path, signature: Signature, precision: str, threads: int | None) -> None:
        self._folder = folder
        with engine_failures(f"{folder}: loading model.pt2"):
            program = torch.export.load(folder / "model.pt2")
            values = {node.name: node.meta.get("val") for node in program.graph.nodes}
            _, height, width, _ = values[program.graph_signature.user_inputs[0]].shape
            _, classes = values[program.graph_signature.user_outputs[0]].shape
            self._module = program.module()
        check_signature(folder, "model.pt2", (height, width, classes), signature)

    @torch.inference_mode()
    def run(self, pixels: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Return the probabilities; see `runtimes.base.Session`."""
        try:
            probabilities: NDArray[np.float32] = self._module(torch.from_numpy(np.ascontiguousarray(pixels))).numpy()
            return probabilities
        except Exception as fault:
            raise engine_failure(f"{self._folder}: PyTorch", fault) from fault

    def close(self) -> None:
        """Free the program."""
        del self._module


def read_manifest(folder: Path) -> str:
    """Return the manifest inside `model.pt2`, or ""."""
    found = {METADATA_KEY: ""}
    with engine_failures(f"{folder}: reading model.pt2"):
        torch.export.load(folder / "model.pt2", extra_files=found)
    return found[METADATA_KEY]

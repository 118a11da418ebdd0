"""The session that runs `model.pt2` with PyTorch."""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray

from runtimes.base import METADATA_KEY, ModelFiles, Port, Signature, check_ports, engine_failure, engine_failures


class Session:
    """A loaded program."""

    def __init__(self, files: ModelFiles, signature: Signature, precision: str, threads: int | None) -> None:
        self._place = files.place
        carried = {METADATA_KEY: ""}
        with engine_failures(f"{files.place}: loading model.pt2"):
            program = torch.export.load(io.BytesIO(files.contents["model.pt2"]), extra_files=carried)
            values = {node.name: node.meta.get("val") for node in program.graph.nodes}
            inputs = [_port(values[name]) for name in program.graph_signature.user_inputs]
            outputs = [_port(values[name]) for name in program.graph_signature.user_outputs]
            self._module = program.module()
        self.manifest = carried[METADATA_KEY]
        check_ports(files.place, inputs, outputs, signature)

    @torch.inference_mode()
    def run(self, pixels: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Return the probabilities; see `runtimes.base.Session`."""
        try:
            probabilities: NDArray[np.float32] = self._module(torch.from_numpy(np.ascontiguousarray(pixels))).numpy()
            return probabilities
        except Exception as fault:
            raise engine_failure(f"{self._place}: PyTorch", fault) from fault

    def close(self) -> None:
        """Free the program."""
        del self._module


def _port(tensor: torch.Tensor) -> Port:
    lengths = tuple(length if isinstance(length, int) else None for length in tensor.shape)
    return Port(None, str(tensor.dtype).removeprefix("torch."), lengths)

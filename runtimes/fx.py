"""The program of a module, as `torch.export` takes it, and facts about such a program, for any engine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx import Node

from .base import Signature
from .errors import ExportError


def program_of(module: torch.nn.Module, signature: Signature) -> ExportedProgram:
    """Return the program for any batch, or for one image if the module allows only that, as one that loops over images.

    Raises:
        ExportError: the module decides by the values of the pixels what it computes.
        Exception: whatever else torch.export refuses.
    """
    images = torch.zeros(2, signature.height, signature.width, 3, dtype=torch.uint8)  # 1 would be taken for static
    try:
        return torch.export.export(module, (images,), dynamic_shapes=({0: Dim("batch")},))
    except Exception:  # of many kinds, by the way in which the module depends on the batch
        return program_for_one(module, signature)


def program_for_one(module: torch.nn.Module, signature: Signature) -> ExportedProgram:
    """Return the program for one image.

    Raises:
        ExportError: the module decides by the values of the pixels what it computes.
        Exception: whatever else torch.export refuses.
    """
    image = torch.zeros(1, signature.height, signature.width, 3, dtype=torch.uint8)
    try:
        return torch.export.export(module, (image,))
    except Exception as fault:
        if "data-dependent" not in str(fault):
            raise
        raise ExportError(
            "what it computes depends on the values of a tensor (an `if` or a loop); use torch.where or torch.cond"
        ) from fault


def takes_one(program: ExportedProgram) -> bool:
    """Return whether a program is for one image, and not for any batch."""
    name = program.graph_signature.user_inputs[0]
    image = next(node for node in program.graph.nodes if node.name == name)
    return isinstance(image.meta["val"].shape[0], int)


def layer_of(node: Node) -> str:
    """Return the name (as in `named_modules`) of the module whose `forward` called this operator."""
    stack = node.meta.get("nn_module_stack") or {}
    return next((str(name) for name, _ in reversed(stack.values())), "")


def is_convolutional(program: ExportedProgram) -> bool:
    """Return whether the net has more convolutions than linear layers, as a residual net and unlike a transformer."""
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    return sum(".conv" in target for target in targets) > sum(".linear" in target for target in targets)


class ProgramSession:
    """A program for one image, run in PyTorch: a session that stands for files which only run elsewhere.

    Args:
        module: the program's module.
        manifest: the JSON that the model file carries.
        prepare: makes the input of the program from a uint8 image [1, height, width, 3].
    """

    def __init__(
        self, module: torch.nn.Module, manifest: str, prepare: Callable[[Tensor], Tensor] = lambda image: image
    ) -> None:
        self.manifest = manifest
        self._module, self._prepare = module, prepare

    @torch.inference_mode()
    def run(self, pixels: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Return the probabilities; see `runtimes.base.Session`."""
        return np.concatenate([self._answer(image) for image in torch.from_numpy(np.ascontiguousarray(pixels))])

    def _answer(self, image: Tensor) -> NDArray[np.float32]:
        answer = self._module(self._prepare(image[None]))
        probabilities: NDArray[np.float32] = (answer[0] if isinstance(answer, tuple | list) else answer).numpy()
        return probabilities

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

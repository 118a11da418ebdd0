"""Facts about a program of `torch.export`, for any engine."""

from __future__ import annotations

from torch.export import ExportedProgram
from torch.fx import Node


def layer_of(node: Node) -> str:
    """Return the name (as in `named_modules`) of the module whose `forward` called this operator."""
    stack = node.meta.get("nn_module_stack") or {}
    return next((str(name) for name, _ in reversed(stack.values())), "")


def is_convolutional(program: ExportedProgram) -> bool:
    """Return whether the net has more convolutions than linear layers, as a residual net and unlike a transformer."""
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    return sum(".conv" in target for target in targets) > sum(".linear" in target for target in targets)

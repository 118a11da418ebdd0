"""What can be read off a program of `torch.export`, whatever engine it is for."""

from __future__ import annotations

from torch.export import ExportedProgram
from torch.fx import Node


def layer_of(node: Node) -> str:
    """The name of the module, as `named_modules` has it, whose `forward` this operator was called in."""
    stack = node.meta.get("nn_module_stack") or {}
    return next((str(name) for name, _ in reversed(stack.values())), "")


def is_convolutional(program: ExportedProgram) -> bool:
    """Whether convolutions do the work, as in a residual net, and not linear layers, as in a transformer or mixer."""
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    return sum(".conv" in target for target in targets) > sum(".linear" in target for target in targets)

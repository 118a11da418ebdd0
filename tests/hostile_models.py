"""Model files that crash or hang their engine, in bundles whose hashes are right."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from bundle_edits import reseal


def with_endless_loop(folder: Path) -> Path:
    """Let an ONNX bundle compute its answers, and then never return them."""
    graph = _with_free_output(folder)
    ports = {
        name: helper.make_tensor_value_info(name, dtype, shape)
        for name, dtype, shape in (
            ("turn", TensorProto.INT64, []),
            ("go", TensorProto.BOOL, []),
            ("go_on", TensorProto.BOOL, []),
            ("before", TensorProto.FLOAT, None),
            ("after", TensorProto.FLOAT, None),
        )
    }
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["before"], ["after"])],
        "body",
        [ports["turn"], ports["go"], ports["before"]],
        [ports["go_on"], ports["after"]],
    )
    graph.graph.initializer.append(helper.make_tensor("always", TensorProto.BOOL, [], [True]))
    graph.graph.node.append(helper.make_node("Loop", ["", "always", "answers"], ["probabilities"], body=body))
    return _saved(graph, folder)


def with_huge_tensor(folder: Path) -> Path:
    """Let an ONNX bundle add the sum of six thousand million zeros to its answers."""
    graph = _with_free_output(folder)
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    graph.graph.initializer.append(helper.make_tensor("count", TensorProto.INT64, [1], [6_000_000_000]))
    graph.graph.node.extend(
        [
            helper.make_node("ConstantOfShape", ["count"], ["zeros"], value=zero),
            helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=0),
            helper.make_node("Add", ["answers", "nothing"], ["probabilities"]),
        ]
    )
    return _saved(graph, folder)


def with_nested_information(folder: Path, depth: int = 20_000) -> Path:
    """Nest elements in an OpenVINO bundle where its manifest is read."""
    file = folder / "model.xml"
    text = file.read_text(encoding="utf-8")
    start = text.index("<libkd_bundle ")
    end = text.index(">", start) + 1
    nested = f"<libkd_bundle>{'<a>' * depth}{'</a>' * depth}</libkd_bundle>"
    file.write_text(text[:start] + nested + text[end:], encoding="utf-8")
    reseal(folder)
    return folder


def with_one_changed_byte(folder: Path, name: str, place: int) -> Path:
    """Change a byte of a file to another one that depends on its place."""
    content = bytearray((folder / name).read_bytes())
    content[place] ^= 1 + place * 7919 % 255
    (folder / name).write_bytes(content)
    reseal(folder)
    return folder


def _with_free_output(folder: Path) -> onnx.ModelProto:
    """Return the model of a bundle with its answers under the name `answers`."""
    model = onnx.load(folder / "model.onnx")
    for node in model.graph.node:
        node.output[:] = ["answers" if name == "probabilities" else name for name in node.output]
    return model


def _saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "model.onnx")
    reseal(folder)
    return folder

"""Model files that answer with something else than they should: refused when they are loaded, or when they answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from patterns import LABELS, SIZE, patterns
from runtimes.base import ModelFiles, Signature
from runtimes.checked import CheckedSession
from runtimes.engines import open_session
from runtimes.errors import BundleError, EngineError

SIGNATURE = Signature(4, 4, 2)
IMAGE = np.full((1, 4, 4, 3), 7, np.uint8)
PORTS = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


def graph(
    nodes: list[onnx.NodeProto],
    *,
    input: tuple[str, str, list] = ("pixels", "uint8", ["n", 4, 4, 3]),
    output: tuple[str, str, list] = ("probabilities", "float32", ["n", 2]),
    weights: list[TensorProto] | None = None,
    further: tuple[str, ...] = (),
) -> bytes:
    ports = [
        helper.make_tensor_value_info(name, PORTS[dtype], shape)
        for name, dtype, shape in (input, output, *((name, "uint8", ["n", 4, 4, 3]) for name in further))
    ]
    made = helper.make_graph(nodes, "graph", [ports[0], *ports[2:]], [ports[1]], weights or [])
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(made, opset_imports=opset, ir_version=10).SerializeToString()


def constant(values: object, dtype: str = "float32") -> onnx.NodeProto:
    tensor = numpy_helper.from_array(np.array(values, dtype))
    return helper.make_node("Constant", [], ["probabilities"], value=tensor)


def opened(content: bytes, signature: Signature = SIGNATURE):
    return open_session("onnx", ModelFiles("there", {"model.onnx": content}), signature, 1).session


def test_a_graph_that_keeps_its_word_is_taken():
    np.testing.assert_array_equal(opened(graph([constant([[0.25, 0.75]])])).run(IMAGE), np.float32([[0.25, 0.75]]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (graph([constant([[1, 0]])], input=("image", "uint8", ["n", 4, 4, 3])), "input is image: uint8"),
        (graph([constant([[1, 0]])], input=("pixels", "float32", ["n", 4, 4, 3])), r"input is pixels: float32"),
        (graph([constant([[1, 0]])], input=("pixels", "uint8", ["n", 3, 4, 4])), r"uint8 \[n, 3, 4, 4\], and not"),
        (graph([constant([[1, 0]])], input=("pixels", "uint8", [8, 4, 4, 3])), r"uint8 \[8, 4, 4, 3\], and not"),
        (graph([constant([[1, 0]])], input=("pixels", "uint8", ["n", "h", "w", 3])), r"uint8 \[n, n, n, 3\], and not"),
        (graph([constant([[1, 0]])], further=("mask",)), "input is pixels: uint8 .*; mask: uint8"),
        (
            graph([constant([[1, 0, 0]])], output=("probabilities", "float32", ["n", 3])),
            r"output is .* \[\w, 3\], and not",
        ),
        (graph([constant([[1, 0]], "float16")], output=("probabilities", "float16", ["n", 2])), "float16"),
        (graph([constant([1, 0])], output=("probabilities", "float32", [2])), r"float32 \[2\], and not"),
    ],
)
def test_other_inputs_and_outputs_are_refused_when_loading(content, message):
    with pytest.raises(BundleError, match=rf"there: the model's .*{message}"):
        opened(content)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([[0.5, np.nan]], "NaN or infinity"),
        ([[np.inf, 0]], "NaN or infinity"),
        ([[4.0, -3.0]], "numbers that are no probabilities"),
        ([[2.5, 1.25]], "numbers that are no probabilities"),
        ([[0.25, 0.25]], "numbers that are no probabilities"),
    ],
)
def test_a_graph_that_answers_with_something_else_than_it_declares(answer, message):
    session = opened(graph([constant(answer)]))
    with pytest.raises(EngineError, match=message):
        session.run(IMAGE)


@pytest.mark.parametrize(
    ("answer", "axis", "message"),
    [
        ([[0.5, 0.5], [1, 0]], 0, r"\[2, 2\] instead of \[1, 2\]"),
        ([[0.2, 0.3, 0.5]], 1, r"\[1, 3\] instead of \[1, 2\]"),
        (np.zeros((0, 2)), 0, r"\[0, 2\] instead of \[1, 2\]"),
    ],
)
def test_a_graph_whose_answer_has_another_shape(answer, axis, message):
    # Which numbers pass `Compress` depends on the pixels, so no shape is known before it runs.
    answer = np.float32(answer)
    numbers = {"answer": answer, "all": np.int64([-1]), "from": np.int64([0]), "to": np.int64([answer.shape[axis]])}
    weights = [numpy_helper.from_array(values, name) for name, values in numbers.items()]
    nodes = [
        helper.make_node("Reshape", ["pixels", "all"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["bright"], to=TensorProto.BOOL),
        helper.make_node("Slice", ["bright", "from", "to"], ["chosen"]),
        helper.make_node("Compress", ["answer", "chosen"], ["probabilities"], axis=axis),
    ]
    with pytest.raises(EngineError, match=message):
        opened(graph(nodes, weights=weights)).run(IMAGE)


@pytest.mark.parametrize("answer", [np.array([[1, 0]], np.float64), np.array([[1, 0]], np.float16), [[1.0, 0.0]], None])
def test_a_session_of_somebody_else_that_answers_with_something_else(answer):
    class Odd:
        def run(self, pixels):
            return answer

        def close(self) -> None:
            pass

    with pytest.raises(EngineError, match="instead of float32"):
        CheckedSession(Odd(), SIGNATURE, "it").run(IMAGE)


class TestWeightsOutsideOfTheFile:
    """An ONNX file may name other files that hold its weights. Nobody has hashed them."""

    def model(self, location: str, offset: int = 0) -> bytes:
        weight = TensorProto(name="probabilities_", data_type=TensorProto.FLOAT, dims=[1, 2])
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", str(offset)), ("length", "8")):
            weight.external_data.add(key=key, value=value)
        return graph([helper.make_node("Identity", ["probabilities_"], ["probabilities"])], weights=[weight])

    @pytest.mark.parametrize("location", ["w.bin", "./w.bin", "../w.bin", "{folder}/w.bin", "/dev/zero"])
    def test_are_not_read(self, tmp_path, monkeypatch, location):
        (tmp_path / "w.bin").write_bytes(np.float32([1, 0]).tobytes())
        monkeypatch.chdir(tmp_path)
        with pytest.raises(EngineError, match=r"there: loading model\.onnx failed"):
            opened(self.model(location.format(folder=tmp_path))).run(IMAGE)

    def test_nor_is_the_memory_of_the_process(self):
        secret = np.float32([1, 0])
        with pytest.raises(EngineError, match=r"there: loading model\.onnx failed"):
            opened(self.model("*/_ORT_MEM_ADDR_/*", secret.ctypes.data)).run(IMAGE)

    def test_nor_those_of_a_constant(self, tmp_path, monkeypatch):
        (tmp_path / "w.bin").write_bytes(np.float32([1, 0]).tobytes())
        monkeypatch.chdir(tmp_path)
        node = constant([[1, 0]])
        tensor = node.attribute[0].t
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w.bin")
        with pytest.raises(EngineError):
            opened(graph([node])).run(IMAGE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "precision"),
    [
        *(("onnx", precision) for precision in ("fp32", "fp16", "int8")),
        *(("openvino", precision) for precision in ("fp32", "fp16", "int8")),
        *(pytest.param("executorch", precision, marks=pytest.mark.long) for precision in ("fp32", "fp16", "int8")),
    ],
)
def test_an_image_is_answered_alike_beside_any_other_image(vit, preprocessing, tmp_path, target, precision):
    # Scales that a layer takes over the whole batch would let bright images change the answers to dark ones.
    import sdk

    images = patterns(16, seed=5)
    images[8:] //= 8
    bundle = sdk.export(
        vit,
        target=target,
        precision=precision,
        out=Path(tmp_path, "bundle"),
        labels=LABELS,
        preprocessing=preprocessing,
        calibration=patterns(16, seed=6) if precision == "int8" else None,
    )
    session = bundle.session(1)
    try:
        alone = np.concatenate([session.run(image[None]) for image in images])
        np.testing.assert_array_equal(session.run(images), alone)
        np.testing.assert_array_equal(session.run(images[::-1])[::-1], alone)
    finally:
        session.close()
    assert images.shape[1:3] == (SIZE, SIZE)

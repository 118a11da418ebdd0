"""The facts about ONNX Runtime that are known without importing it."""

from runtimes.base import Engine

ENGINE = Engine(
    title="ONNX Runtime",
    files=("model.onnx",),
    magic=(0, b"\x08"),
    precisions=("fp32", "fp16", "int8"),
    run_extra="",
    lower_extra="[export]",
    requirements=("onnxruntime", "onnx"),
    colour="blue",
)

"""The facts about OpenVINO that are known without importing it."""

from runtimes.base import Engine

ENGINE = Engine(
    title="OpenVINO",
    files=("model.xml", "model.bin"),
    magic=(0, b"<?xml"),
    precisions=("fp32", "fp16", "int8"),
    run_extra="[openvino]",
    lower_extra="[export,openvino]",
    requirements=("openvino",),
    colour="orange",
)

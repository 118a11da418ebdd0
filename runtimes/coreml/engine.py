"""The facts about Core ML that are known without importing coremltools."""

from runtimes.base import Elsewhere, Engine

ENGINE = Engine(
    title="Core ML",
    files=("model.mlpackage.zip",),
    magic=(0, b"PK\x03\x04"),
    precisions=("fp32", "fp16"),
    run_extra="[coreml]",
    lower_extra="[export,coreml]",
    requirements=("coremltools",),
    colour="yellow",
    elsewhere=Elsewhere("iOS 16 and macOS 13 or later", "Core ML, from the unpacked model.mlpackage"),
)

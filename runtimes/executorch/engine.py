"""The facts about ExecuTorch that are known without importing it."""

from runtimes.base import Backend, Elsewhere, Engine

ENGINE = Engine(
    title="ExecuTorch",
    files=("model.pte",),
    # The identifier has to be checked before ExecuTorch's loader sees the file: on garbage it aborts the process.
    magic=(4, b"ET12"),
    precisions=("fp32", "fp16", "int8"),
    run_extra="[executorch]",
    lower_extra="[export,executorch]",
    requirements=("executorch",),
    colour="green",
    backends={
        "xnnpack": Backend(precisions=("fp32", "fp16", "int8"), lower_extra="[export,executorch]"),
        "vulkan": Backend(
            precisions=("fp32", "fp16"),
            lower_extra="[export,executorch]",
            elsewhere=Elsewhere("devices with a Vulkan GPU", "ExecuTorch's runtime and its Vulkan backend"),
        ),
        "coreml": Backend(
            precisions=("fp32", "fp16"),
            lower_extra="[export,executorch,coreml]",
            requirements=("coremltools",),
            elsewhere=Elsewhere("iOS 16 and macOS 13 or later", "ExecuTorch's runtime and its Core ML backend"),
        ),
    },
)

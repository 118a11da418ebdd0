"""The facts about ExecuTorch that are known without importing it."""

from runtimes.base import Engine

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
    backends=("xnnpack",),
)

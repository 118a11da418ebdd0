"""The facts about this engine that are known without importing it."""

from runtimes.base import Engine

ENGINE = Engine(
    title="PyTorch",
    files=("model.pt2",),
    magic=(0, b"PK"),  # the file is a zip archive
    precisions=("fp32",),
    run_extra="[export]",
    lower_extra="[export]",
    requirements=("torch",),
    colour="purple",
)

"""The contract between an engine and everything above it: how its files are made, and how they are run.

Shapes: a graph takes uint8 RGB pixels [batch, height, width, 3] and returns float32 probabilities [batch, classes].
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError, EngineError, ExportError, LibkdError

if TYPE_CHECKING:
    import torch

METADATA_KEY = "libkd_bundle"
"""Under this name a model file carries its manifest: in `metadata_props`, `rt_info`, or a method of the `.pte`."""

INPUT, OUTPUT = "pixels", "probabilities"
"""The names of the graph's only input and only output."""

Call: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""A function from pixels [batch, height, width, 3] to probabilities [batch, classes]."""


class Signature(NamedTuple):
    """The shapes of a graph: uint8 [batch, height, width, 3] in, float32 [batch, classes] out."""

    height: int
    width: int
    classes: int


class Quantization(NamedTuple):
    """The material for an 8-bit model.

    Attributes:
        images: uint8 [n, height, width, 3]; the ranges of the activations are measured on them.
        float_layers: names of modules that stay in float.
    """

    images: NDArray[np.uint8]
    float_layers: tuple[str, ...] = ()


class Delegation(NamedTuple):
    """The result of partitioning a graph.

    Attributes:
        delegates: number of parts that the engine's backend runs.
        outside: operators that the backend does not run, with how often each occurs.
    """

    delegates: int
    outside: dict[str, int]


class Session(Protocol):
    """A loaded model file. Several threads may use it at once."""

    def run(self, pixels: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Return the probabilities [batch, classes] of RGB pixels [batch, height, width, 3]; batch is at least 1.

        Raises:
            EngineError: the engine failed.
        """
        ...

    def close(self) -> None:
        """Free the engine's memory."""
        ...


class Lowering(Protocol):
    """The module `lowering.py` of an engine, which makes the engine's files."""

    def lower(
        self,
        module: torch.nn.Module,
        *,
        signature: Signature,
        precision: str,
        quantization: Quantization | None,
        manifest: str,
        folder: Path,
    ) -> Delegation | None:
        """Write the engine's `files` into `folder`.

        Args:
            module: in evaluation mode, on the CPU; it maps uint8 [batch, height, width, 3] to float32
                [batch, classes] and computes in the dtype of its parameters. It is not changed.
            precision: one of the engine's `precisions`.
            quantization: given at int8, else None.
            manifest: one line of JSON, which `read_manifest` of the engine's session returns again.

        Returns:
            How the graph was partitioned, if the engine does that while lowering.

        Raises:
            ExportError: the engine can't express the module.
        """
        ...


class Engine(NamedTuple):
    """The facts about an engine that are known without importing it. They stand in `engine.py` of its folder.

    Attributes:
        title: its name for people.
        files: the files that it reads; the first is the model file.
        magic: offset and bytes by which the model file is recognised.
        precisions: the precisions at which models are lowered for it.
        run_extra, lower_extra: the extras of this project that install what running and lowering need.
        requirements: Python packages whose versions are recorded in a bundle.
        colour: the name of its colour in charts.
        backends: the backends that it delegates to, the default first; empty if it has only one way to compute.
    """

    title: str
    files: tuple[str, ...]
    magic: tuple[int, bytes]
    precisions: tuple[str, ...]
    run_extra: str
    lower_extra: str
    requirements: tuple[str, ...]
    colour: str
    backends: tuple[str, ...] = ()


def check_signature(folder: Path, file: str, found: tuple[object, ...], wanted: Signature) -> None:
    """Raise `BundleError` if the (height, width, classes) of a graph are not those that it should have."""
    if found != wanted:
        raise BundleError(
            f"{folder}: {file} takes {found[0]}x{found[1]} pixels and knows {found[2]} classes, "
            f"not {wanted.height}x{wanted.width} and {wanted.classes}; copy or export the bundle again"
        )


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def engine_failures(task: str) -> Iterator[None]:
    """Turn any exception of an engine inside the block into an `EngineError` of one line; ours pass unchanged."""
    try:
        yield
    except LibkdError:
        raise
    except Exception as fault:
        raise engine_failure(task, fault) from fault


def engine_failure(task: str, fault: Exception) -> EngineError:
    """Return an exception of an engine as one line. A call that is often made uses it without the context manager."""
    return EngineError(f"{task} failed: {first_line(fault)}")


@contextmanager
def lowering_refusals(title: str, precision: str) -> Iterator[None]:
    """Turn any exception of a converter inside the block into an `ExportError` of one line."""
    try:
        yield
    except Exception as fault:
        raise ExportError(f"{title} can't take this model at {precision}: {first_line(fault)}") from fault


def first_line(fault: BaseException) -> str:
    """Return the first informative line of a message; a line that ends in a colon only introduces the next one."""
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    return next((line for line in lines if not line.endswith(":")), lines[0] if lines else type(fault).__name__)


def one_by_one(call: Call) -> Call:
    """Return a call for any batch, made from the call of a graph that takes one image."""
    return lambda pixels: np.concatenate([call(pixels[index : index + 1]) for index in range(len(pixels))])

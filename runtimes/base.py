"""What an engine is to the rest of the house: a way to run files, and to make them. And which engines there are."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

METADATA_KEY = "libkd_bundle"
"""Under this name a model file carries its manifest: in `metadata_props`, `rt_info`, or a method of the `.pte`."""

INPUT, OUTPUT = "pixels", "probabilities"
"""What the graph's only input and only output are called."""


class EngineNotInstalled(Exception):
    """The engine, or something that it needs, can't be imported; the message holds the pip command."""


class EngineFailed(Exception):
    """The engine refused a file or failed while it ran."""


class ForeignFile(Exception):
    """A file is not what it is said to be: another format, or a graph of other shapes."""


class LoweringRefused(Exception):
    """The engine can't take this model, or not at this precision."""


class Signature(NamedTuple):
    """The shapes of a graph: uint8 [batch, height, width, 3] in, float32 [batch, classes] out."""

    height: int
    width: int
    classes: int


class Quantization(NamedTuple):
    """What an 8-bit model is made with.

    Attributes:
        pictures: uint8 [n, height, width, 3], to see by how large activations get.
        float_layers: names of modules that stay in float.
    """

    pictures: NDArray[np.uint8]
    float_layers: tuple[str, ...] = ()


class Delegation(NamedTuple):
    """How a graph was cut up: parts that the engine's backend runs, and operators, by how often, that it does not."""

    delegates: int
    outside: dict[str, int]


class Session(Protocol):
    """A model file, loaded. It may be used from several threads at once."""

    def run(self, pixels: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Probabilities [batch, classes] of RGB pixels [batch, height, width, 3], for any batch of at least one.

        Raises:
            EngineFailed: the engine gave up.
        """
        ...

    def close(self) -> None:
        """Let go of the engine's memory."""
        ...


class Lowering(Protocol):
    """A module that makes an engine's files."""

    PRECISIONS: tuple[str, ...]

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

        `module` is in eval mode, on the CPU, maps uint8 [batch, height, width, 3] to float32 [batch, classes], and
        computes in its parameters' dtype; it is not changed. `quantization` comes with int8 and with nothing else.
        `manifest` is one line of JSON, readable again through `read_manifest`.

        Returns:
            how the graph was cut up, where the engine does that while lowering.

        Raises:
            LoweringRefused: the engine can't express the module.
        """
        ...


class Engine(NamedTuple):
    """What is known of an engine without importing it."""

    title: str
    files: tuple[str, ...]
    magic: tuple[int, bytes]
    """Offset and bytes by which the first of `files` is told from anything else."""
    run_extra: str
    lower_extra: str
    packages: tuple[str, ...]
    """Whose versions are worth recording."""


ENGINES = {
    "onnx": Engine("ONNX Runtime", ("model.onnx",), (0, b"\x08"), "", "[export]", ("onnxruntime", "onnx")),
    "openvino": Engine(
        "OpenVINO", ("model.xml", "model.bin"), (0, b"<?xml"), "[openvino]", "[export,openvino]", ("openvino",)
    ),
    # The identifier has to be looked at before ExecuTorch's loader sees the file: on garbage it aborts the process.
    "executorch": Engine(
        "ExecuTorch", ("model.pte",), (4, b"ET12"), "[executorch]", "[export,executorch]", ("executorch",)
    ),
}


def open_session(
    engine: str, folder: Path, signature: Signature, threads: int | None = None, *, precision: str = "fp32"
) -> Session:
    """Load the engine's files in `folder`. `threads` defaults to the cores that this process may use.

    `precision` is the one that they were lowered at.

    Raises:
        EngineNotInstalled: the engine can't be imported.
        ForeignFile: the file is of another format, or its graph has another signature.
        EngineFailed: the engine can't load it.
    """
    check_magic(engine, folder)
    module = _part(engine, "session", ENGINES[engine].run_extra)
    return cast(Session, module.Session(folder, signature, precision, threads))


def load_runtime(engine: str) -> None:
    """Import what runs this engine's files, so that opening one takes no longer than it has to.

    Raises:
        EngineNotInstalled: it can't be imported.
    """
    _part(engine, "session", ENGINES[engine].run_extra)


def read_manifest(engine: str, folder: Path) -> str:
    """The JSON that the model file in `folder` carries, or "" if it carries none.

    Raises:
        EngineNotInstalled, ForeignFile, EngineFailed: as for `open_session`.
    """
    check_magic(engine, folder)
    return cast(str, _part(engine, "session", ENGINES[engine].run_extra).read_manifest(folder))


def load_lowering(engine: str) -> Lowering:
    """The module that makes this engine's files.

    Raises:
        EngineNotInstalled: the engine, or torch, can't be imported.
    """
    return cast(Lowering, _part(engine, "lowering", ENGINES[engine].lower_extra))


def check_magic(engine: str, folder: Path) -> None:
    """Raise `ForeignFile` if the model file does not begin like one of this engine."""
    title, (name, *_), (offset, magic) = ENGINES[engine][:3]
    with (folder / name).open("rb") as file:
        head = file.read(offset + len(magic))
    if head[offset:] != magic:
        raise ForeignFile(f"{name} is no file of {title}")


def check_signature(file: str, found: tuple[object, ...], wanted: Signature) -> None:
    """Raise `ForeignFile` if a graph's (height, width, classes) are not those that it should have."""
    if found != wanted:
        raise ForeignFile(
            f"{file} takes {found[0]}x{found[1]} pixels and knows {found[2]} classes, "
            f"not {wanted.height}x{wanted.width} and {wanted.classes}"
        )


def usable_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def engine_failures(doing: str) -> Iterator[None]:
    """Whatever an engine raises inside the block becomes one line of `EngineFailed`."""
    try:
        yield
    except (ForeignFile, EngineFailed):
        raise
    except Exception as fault:
        raise engine_failure(doing, fault) from fault


def engine_failure(doing: str, fault: Exception) -> EngineFailed:
    """What an engine raised, as one line; for what runs often, where a context would cost more than it says."""
    return EngineFailed(f"{doing} failed: {first_line(fault)}")


@contextmanager
def lowering_refusals(title: str) -> Iterator[None]:
    """Whatever a converter raises inside the block becomes one line of `LoweringRefused`."""
    try:
        yield
    except Exception as fault:
        raise LoweringRefused(f"{title} can't take this model: {first_line(fault)}") from fault


def first_line(fault: BaseException) -> str:
    """The first line of its message that says something; one that ends in a colon only leads to the next."""
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    return next((line for line in lines if not line.endswith(":")), lines[0] if lines else type(fault).__name__)


def _part(engine: str, part: str, extra: str) -> Any:
    try:
        return importlib.import_module(f"runtimes.{engine}.{part}")
    except ImportError as fault:
        missing = f"{fault.name} is not installed" if isinstance(fault, ModuleNotFoundError) else first_line(fault)
        raise EngineNotInstalled(f"{ENGINES[engine].title}: {missing}; pip install 'libkd-sdk{extra}'") from fault

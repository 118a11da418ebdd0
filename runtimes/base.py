"""The contract between an engine and everything above it: how its files are made, and how they are run.

Shapes: a graph takes uint8 RGB pixels [batch, height, width, 3] and returns float32 probabilities [batch, classes].
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError, EngineError, ExportError, LibkdError

if TYPE_CHECKING:
    import torch

METADATA_KEY = "libkd_bundle"
"""Under this name a model file carries its manifest: in `metadata_props`, in `rt_info`, as a method of the `.pte`."""

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}

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


class Outcome(NamedTuple):
    """The result of a lowering besides the files that it wrote.

    Attributes:
        delegation: how the graph was partitioned, if the engine does that while lowering.
        stand_in: for files that only run elsewhere, the program that was given to the backend, run in PyTorch. It is
            compared in the place of the files; its `manifest` is what the model file carries.
    """

    delegation: Delegation | None = None
    stand_in: ModelSession | None = None


class ModelFiles(NamedTuple):
    """The files of a model, read before an engine sees them: no session opens a file itself.

    Attributes:
        place: where they come from, for errors.
        contents: the bytes of each of the engine's `files`, by name.
    """

    place: str
    contents: Mapping[str, bytes]

    @classmethod
    def in_folder(cls, folder: Path, names: Iterable[str]) -> ModelFiles:
        """Read files that were just written; those of a bundle are read by `sdk.Bundle`, which checks them."""
        return cls(str(folder), {name: (folder / name).read_bytes() for name in names})


class Session(Protocol):
    """A loaded model. Several threads may use it at once."""

    def run(self, pixels: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Return the probabilities [batch, classes] of RGB pixels [batch, height, width, 3]; batch is at least 1.

        The answer for an image does not depend on the other images of the batch.

        Raises:
            EngineError: the engine failed.
        """
        ...

    def close(self) -> None:
        """Free the engine's memory."""
        ...


class ModelSession(Session, Protocol):
    """The class `Session` in `session.py` of an engine. It takes (files, signature, precision, threads).

    Attributes:
        manifest: the JSON that the model file carries, or "".
    """

    manifest: str


class Lowering(Protocol):
    """The module `lowering.py` of an engine, which makes the engine's files."""

    def lower(
        self,
        module: torch.nn.Module,
        *,
        signature: Signature,
        precision: str,
        backend: str | None,
        quantization: Quantization | None,
        manifest: str,
        folder: Path,
    ) -> Outcome | None:
        """Write the engine's `files` into `folder`.

        Args:
            module: in evaluation mode, on the CPU; it maps uint8 [batch, height, width, 3] to float32
                [batch, classes] and computes in the dtype of its parameters. It is not changed.
            precision: one of the engine's `precisions`, or of those of its backend.
            backend: one of the engine's `backends`; None if it has none.
            quantization: given at int8, else None.
            manifest: one line of JSON, which the `manifest` of the engine's session is again.

        Returns:
            What there is to tell; None for nothing.

        Raises:
            ExportError: the engine can't express the module.
        """
        ...


class Elsewhere(NamedTuple):
    """The place where files run that no session of this project can run: their bundles are *unverified on device*.

    Attributes:
        devices: the devices, for people.
        runtime: the program that runs the files there, for people.
    """

    devices: str
    runtime: str


class Backend(NamedTuple):
    """The facts about a backend that an engine delegates to.

    Attributes:
        precisions: the precisions at which models are lowered for it.
        lower_extra: the extras of this project that install what lowering for it needs.
        requirements: Python packages whose versions are recorded in a bundle, besides those of the engine.
        elsewhere: where it runs, if the engine's session here can't.
    """

    precisions: tuple[str, ...]
    lower_extra: str
    requirements: tuple[str, ...] = ()
    elsewhere: Elsewhere | None = None


class Engine(NamedTuple):
    """The facts about an engine that are known without importing it. They stand in `engine.py` of its folder.

    Attributes:
        title: its name for people.
        files: the files that it reads; the first is the model file.
        magic: offset and bytes by which the model file is recognised.
        precisions: the precisions at which models are lowered for it; with backends, for the default one.
        run_extra, lower_extra: the extras of this project that install what running and lowering need.
        requirements: Python packages whose versions are recorded in a bundle.
        colour: the name of its colour in charts.
        backends: the backends that it delegates to by name, the default first; empty if it has only one way to
            compute.
        elsewhere: where its files run, if no session here can. Such an engine has no `session.py` and no `bare.py`.
    """

    title: str
    files: tuple[str, ...]
    magic: tuple[int, bytes]
    precisions: tuple[str, ...]
    run_extra: str
    lower_extra: str
    requirements: tuple[str, ...]
    colour: str
    backends: Mapping[str, Backend] = MappingProxyType({})
    elsewhere: Elsewhere | None = None


class Port(NamedTuple):
    """An input or output of a graph.

    Attributes:
        name: its name; None if the engine has no names.
        dtype: the name of its numpy dtype, or what the engine calls it.
        shape: its lengths; None for one that may change.
    """

    name: str | None
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        lengths = ", ".join("n" if length is None else str(length) for length in self.shape)
        return f"{self.name or 'a tensor'}: {self.dtype} [{lengths}]"


def check_ports(place: str, inputs: Sequence[Port], outputs: Sequence[Port], wanted: Signature) -> None:
    """Raise `BundleError` unless a graph has exactly the input and the output of this signature.

    The batch is any number, or 1 for a graph that takes one image at a time.
    """
    pixels = Port(INPUT, "uint8", (None, wanted.height, wanted.width, 3))
    probabilities = Port(OUTPUT, "float32", (None, wanted.classes))
    for kind, ports, expected in (("input", inputs, pixels), ("output", outputs, probabilities)):
        if len(ports) != 1 or not _fits(ports[0], expected):
            found = "; ".join(map(str, ports)) or "nothing"
            raise BundleError(
                f"{place}: the model's {kind} is {found}, and not {expected}; copy or export the bundle again"
            )


def _fits(port: Port, expected: Port) -> bool:
    return (
        port.name in (None, expected.name)
        and port.dtype == expected.dtype
        and port.shape[:1] in ((None,), (1,))
        and port.shape[1:] == expected.shape[1:]
    )


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
    """Turn any exception of a converter inside the block into an `ExportError` of one line.

    A disk that takes no more is no refusal of the model: that `OSError` passes.
    """
    try:
        yield
    except Exception as fault:
        if isinstance(fault, OSError) and fault.errno in DISK_ERRORS:
            raise
        raise ExportError(f"{title} can't take this model at {precision}: {first_line(fault)}") from fault


def first_line(fault: BaseException) -> str:
    """Return the first informative line of a message; a line that ends in a colon only introduces the next one."""
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    return next((line for line in lines if not line.endswith(":")), lines[0] if lines else type(fault).__name__)


def one_by_one(call: Call) -> Call:
    """Return a call for any batch, made from the call of a graph that takes one image."""
    return lambda pixels: np.concatenate([call(pixels[index : index + 1]) for index in range(len(pixels))])

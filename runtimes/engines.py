"""The list of engines, and the way to each engine's parts. Nothing else in the project lists them.

A new engine is a folder with `engine.py`, `session.py`, `lowering.py` and `bare.py`, and a line in `FOLDERS`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, cast

from .base import Call, Engine, Lowering, Session, Signature, engine_failures, first_line
from .errors import BundleError, EngineMissing

FOLDERS = (
    "onnx",
    "openvino",
    "executorch",
)
ENGINES: dict[str, Engine] = {
    folder: cast(Engine, importlib.import_module(f"{__package__}.{folder}.engine").ENGINE) for folder in FOLDERS
}
"""The engines by name. An engine is called like its folder: in `--target`, in the manifest, and in this dictionary."""


def open_session(
    engine: str, folder: Path, signature: Signature, threads: int | None = None, *, precision: str = "fp32"
) -> Session:
    """Load the engine's files in `folder`.

    Args:
        threads: threads that the engine computes with; by default, the cores that this process may use.
        precision: the precision that the files were lowered at.

    Raises:
        EngineMissing: the engine can't be imported.
        BundleError: the file has another format, or its graph has another signature.
        EngineError: the engine can't load it.
    """
    check_magic(engine, folder)
    return cast(Session, _part(engine, "session").Session(folder, signature, precision, threads))


def load_runtime(engine: str) -> None:
    """Import the module that runs this engine's files, so that a later `open_session` does not pay for it.

    Raises:
        EngineMissing: the engine can't be imported.
    """
    _part(engine, "session")


def read_manifest(engine: str, folder: Path) -> str:
    """Return the JSON that the model file in `folder` carries, or "" if it carries none.

    Raises:
        EngineMissing, BundleError, EngineError: as for `open_session`.
    """
    check_magic(engine, folder)
    return cast(str, _part(engine, "session").read_manifest(folder))


def load_lowering(engine: str) -> Lowering:
    """Import and return the module that makes this engine's files.

    Raises:
        EngineMissing: the engine, or torch, can't be imported.
    """
    return cast(Lowering, _part(engine, "lowering"))


def load_bare(engine: str) -> None:
    """Import what `open_bare` needs.

    Raises:
        EngineMissing: the engine can't be imported.
    """
    _part(engine, "bare")


def open_bare(engine: str, folder: Path, threads: int, precision: str) -> Call:
    """Return the engine's own call on the files in `folder`, as its quick start writes it: the baseline.

    Only the number of threads, and in OpenVINO the precision of fp32, differ from the engine's defaults. The process
    should do nothing else: ExecuTorch's thread pool is replaced without regard for other users of it.

    Raises:
        EngineMissing, EngineError: as for `open_session`.
    """
    file = folder / ENGINES[engine].files[0]
    bare = _part(engine, "bare")
    with engine_failures(f"{folder}: loading {file.name}"):
        return cast(Call, bare.open_bare(file, threads, precision))


def check_magic(engine: str, folder: Path) -> None:
    """Raise `BundleError` if the model file in `folder` does not begin like one of this engine."""
    title, name = ENGINES[engine].title, ENGINES[engine].files[0]
    offset, magic = ENGINES[engine].magic
    with (folder / name).open("rb") as file:
        head = file.read(offset + len(magic))
    if head[offset:] != magic:
        raise BundleError(f"{folder}: {name} is not a file of {title}; copy or export the bundle again")


def _part(engine: str, part: str) -> Any:
    known = ENGINES[engine]
    extra = known.lower_extra if part == "lowering" else known.run_extra
    try:
        return importlib.import_module(f"{__package__}.{engine}.{part}")
    except ImportError as fault:
        missing = f"{fault.name} is not installed" if isinstance(fault, ModuleNotFoundError) else first_line(fault)
        raise EngineMissing(f"{known.title}: {missing}; pip install 'libkd-sdk{extra}'") from fault

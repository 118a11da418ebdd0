"""The list of engines, and the way to each engine's parts. Nothing else in the project lists them.

A new engine is a folder with `engine.py`, `session.py`, `lowering.py` and `bare.py`, and a line in `FOLDERS`. An engine
whose files only run elsewhere has `engine.py` and `lowering.py`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, NamedTuple, cast

from .base import Call, Elsewhere, Engine, Lowering, ModelFiles, ModelSession, Session, Signature, engine_failures
from .checked import CheckedSession
from .errors import BundleError, EngineMissing, LibkdError, import_failure
from .forks import no_fork

FOLDERS = (
    "onnx",
    "openvino",
    "executorch",
    "coreml",
)
ENGINES: dict[str, Engine] = {
    folder: cast(Engine, importlib.import_module(f"{__package__}.{folder}.engine").ENGINE) for folder in FOLDERS
}
"""The engines by name. An engine is called like its folder: in `--target`, in the manifest, and in this dictionary."""

RUNNABLE = {name: engine for name, engine in ENGINES.items() if engine.elsewhere is None}
"""The engines whose files this project can run, with their default backends."""


class OpenSession(NamedTuple):
    """A model that was loaded into its engine, and the JSON that its file carries, or ""."""

    session: Session
    manifest: str


def open_session(
    engine: str,
    files: ModelFiles,
    signature: Signature,
    threads: int | None = None,
    *,
    precision: str = "fp32",
    backend: str | None = None,
) -> OpenSession:
    """Load a model into its engine.

    Args:
        files: the content of the engine's files.
        threads: threads that the engine computes with; by default, the cores that this process may use.
        precision: the precision that the files were lowered at.
        backend: the backend that they were lowered for; None is the engine's default.

    Returns:
        The session, and the JSON that the model file carries.

    Raises:
        EngineMissing: the engine can't be imported, or the files only run elsewhere.
        BundleError: the file has another format, or its graph has other inputs or outputs.
        EngineError: the engine can't load it.
    """
    check_magic(engine, files)
    check_runs_here(engine, backend, files.place)
    with no_fork():
        session = cast(ModelSession, _part(engine, "session").Session(files, signature, precision, threads))
    return OpenSession(CheckedSession(session, signature, files.place), session.manifest)


def elsewhere(engine: str, backend: str | None) -> Elsewhere | None:
    """Return where the files for an engine and a backend run, if no session here can; None if `open_session` can."""
    return ENGINES[engine].backends[backend].elsewhere if backend else ENGINES[engine].elsewhere


def check_runs_here(engine: str, backend: str | None, place: str) -> None:
    """Raise `EngineMissing` if the files of an engine and a backend only run elsewhere. `place` is their name."""
    if there := elsewhere(engine, backend):
        raise EngineMissing(
            f"{place}: {full_title(engine, backend)} runs on {there.devices}, and not here; use it there with "
            f"{there.runtime}, or export for {', '.join(RUNNABLE)} to use it here"
        )


def full_title(engine: str, backend: str | None) -> str:
    """Return the name of an engine for people, with the name of its backend if that is not the default one."""
    default = next(iter(ENGINES[engine].backends), None)
    return ENGINES[engine].title if backend in (None, default) else f"{ENGINES[engine].title} with {backend}"


def load_runtime(engine: str, backend: str | None = None) -> None:
    """Import the module that runs this engine's files, so that a later `open_session` does not pay for it.

    Raises:
        EngineMissing: the engine can't be imported, or the files only run elsewhere.
    """
    check_runs_here(engine, backend, engine)
    _part(engine, "session")


def how_it_runs(engine: str) -> str:
    """Return how the engine is called on this machine; "" if there is only one way.

    Raises:
        EngineMissing: the engine can't be imported.
    """
    return str(getattr(_part(engine, "session"), "HOW", ""))


def load_lowering(engine: str, backend: str | None = None) -> Lowering:
    """Import and return the module that makes this engine's files, and what it needs for a backend.

    Raises:
        EngineMissing: the engine, a library of the backend, or torch, can't be imported.
    """
    lowering = _part(engine, "lowering")
    if backend is not None:
        _part(engine, f"backends.{backend}", ENGINES[engine].backends[backend].lower_extra)
    return cast(Lowering, lowering)


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


def check_magic(engine: str, files: ModelFiles) -> None:
    """Raise `BundleError` if the model file does not begin like one of this engine."""
    title, name = ENGINES[engine].title, ENGINES[engine].files[0]
    offset, magic = ENGINES[engine].magic
    if not files.contents[name].startswith(magic, offset):
        raise BundleError(f"{files.place}: {name} is not a file of {title}; copy or export the bundle again")


def _part(engine: str, part: str, extra: str = "") -> Any:
    known = ENGINES[engine]
    # The bare call of ExecuTorch needs torch.
    extra = extra or (known.run_extra if part == "session" else known.lower_extra)
    try:
        return importlib.import_module(f"{__package__}.{engine}.{part}")
    except LibkdError:
        raise
    except Exception as fault:
        raise import_failure(known.title, fault, extra) from fault

"""The library that `native.cpp` becomes. It is compiled once, with the first model that is loaded, and kept in a cache.

ExecuTorch's wheel has the runtime as shared libraries and headers, but its Python module needs torch. The library takes
35 kB and two seconds, and needs a C++ compiler: `CXX`, or `c++`, `g++` or `clang++`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple

from runtimes.base import first_line

SOURCE = Path(__file__).with_name("native.cpp")
DEFINITIONS = ("C10_USING_CUSTOM_GENERATED_MACROS", "ET_EVENT_TRACER_ENABLED")
"""Those with which the wheel's libraries were compiled, as its CMake file says."""
LIBRARIES = ("executorch", "executorch_threadpool", "executorch_backend_xnnpack", "executorch_kernels_optimized")
PATIENCE_S = 300


class NativeRuntime(NamedTuple):
    """The library, or the reason why there is none.

    Attributes:
        functions: None if it can't be had.
        reason: what is missing; "" if nothing is.
    """

    functions: ctypes.CDLL | None
    reason: str = ""


@cache
def native_runtime() -> NativeRuntime:
    """Return the compiled library; it is compiled if it is not there yet.

    Raises:
        ModuleNotFoundError: ExecuTorch is not installed.
    """
    engine = _engine_folder()
    if sys.platform != "linux":
        return NativeRuntime(None, f"not tried on {sys.platform}")
    try:
        return NativeRuntime(_loaded(engine, _place(engine)))
    except subprocess.CalledProcessError as fault:
        lines = [line for line in fault.stderr.splitlines() if line.strip()] or [f"exit code {fault.returncode}"]
        return NativeRuntime(None, f"{fault.cmd[0]}: {lines[0]}")
    except (OSError, RuntimeError, subprocess.SubprocessError) as fault:  # RuntimeError: there is no home folder
        return NativeRuntime(None, first_line(fault))


def _loaded(engine: Path, kept: Path) -> ctypes.CDLL:
    with suppress(OSError):  # missing, or damaged
        return ctypes.CDLL(str(kept))
    _compile(engine, kept)
    return ctypes.CDLL(str(kept))


def _engine_folder() -> Path:
    found = util.find_spec("executorch")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'executorch'", name="executorch")
    return Path(next(iter(found.submodule_search_locations)))


def _place(engine: Path) -> Path:
    """Return where the library is kept. Its name changes with everything that it is made from."""
    facts = (str(engine), metadata.version("executorch"), platform.machine(), *platform.libc_ver())
    made_from = hashlib.sha256("\0".join(facts).encode() + SOURCE.read_bytes()).hexdigest()[:16]
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache_home, "libkd-sdk", f"executorch-{made_from}.so").expanduser()


def _compile(engine: Path, kept: Path) -> None:
    """Compile the library.

    Raises:
        OSError, SubprocessError: there is no compiler, it failed, or the cache can't be written.
    """
    headers = engine / "include"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        made = Path(folder, kept.name)
        command = [
            *_compiler(),
            *("-std=c++17", "-O2", "-fPIC", "-shared", "-w"),
            *(f"-D{definition}" for definition in DEFINITIONS),
            *(f"-I{path}" for path in (headers, headers / "executorch/runtime/core/portable_type/c10")),
            *(
                str(SOURCE),
                "-o",
                str(made),
                f"-L{engine / 'lib'}",
                f"-Wl,-rpath,{engine / 'lib'}",
                "-Wl,--no-as-needed",
            ),
            *(f"-l{name}" for name in LIBRARIES),
        ]
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL
        )
        made.replace(kept)


def _compiler() -> list[str]:
    chosen = shlex.split(os.environ.get("CXX", ""))
    found = chosen or [name for name in ("c++", "g++", "clang++") if shutil.which(name)][:1]
    if not found:
        raise FileNotFoundError("no C++ compiler")
    return found

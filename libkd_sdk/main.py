"""The command line `libkd-sdk`, with one file for each command. A command imports heavy libraries when it runs.

Exit codes: 0 if the command worked, 2 if the user can fix the cause, 1 if not. An error is one line on stderr that ends
with its code in brackets; `docs/errors.md` explains each code.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, redirect_stdout, suppress
from importlib import metadata

import typer

import trainer  # noqa: F401  (it says how torch's threads wait, which it has to do before torch is imported)
from sdk.errors import LibkdError, UsageError
from sdk.files import disk_failure

from .commands import (
    benchmark,
    compare,
    demo,
    distill,
    evaluate,
    export,
    info,
    keygen,
    pack,
    plan,
    precompute,
    predict,
    recipe,
    sign,
    teach,
    verify,
    web,
)
from .options import training_extra
from .output import stderr
from .stopping import deaf_to_sigterm, interrupted_by_sigterm

CONTINUED = {"demo", "teach", "precompute", "distill", "compare"}
"""The commands that always continue where they were interrupted."""

SHARED = {"teach", "precompute", "distill", "compare", "eval"}
"""The commands that several processes can do together, which torchrun starts."""

INTERRUPTED = 130  # the exit code that typer and shells give to a program that Ctrl-C ended

app = typer.Typer(
    name="libkd-sdk",
    help="Distil light teachers into a small vision transformer, export it, prove it, and run it on a device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, Callable[..., int | None]] = {
    "demo": demo.demo,
    "pack": pack.pack,
    "teach": teach.teach,
    "precompute": precompute.precompute,
    "distill": distill.distill,
    "compare": compare.compare,
    "plan": plan.plan,
    "eval": evaluate.evaluate,
    "export": export.export,
    "predict": predict.predict,
    "benchmark": benchmark.benchmark,
    "verify": verify.verify,
    "info": info.info,
    "web": web.web,
    "recipe": recipe.recipe,
    "keygen": keygen.keygen,
    "sign": sign.sign,
}


def _help(docstring: str | None) -> str:
    """Return a docstring with one line for each paragraph, which `--help` then fits to the width of the terminal."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (docstring or "").split("\n\n"))


for name, command in COMMANDS.items():
    app.command(name, help=_help(command.__doc__))(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"libkd-sdk {metadata.version('libkd-sdk')}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Print the version and leave."
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line, and leave Python with its exit code."""
    gc.set_threshold(100_000, 50, 50)  # imports and exports make millions of objects that stay: a tenth of their time
    _open_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 lacks some characters
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line, and return its exit code."""
    if not _is_continued(arguments):
        return _run(arguments, nullcontext())
    with deaf_to_sigterm():
        return _run(arguments, interrupted_by_sigterm())


def _run(arguments: list[str], work: AbstractContextManager[None]) -> int:
    try:
        with work, _together(arguments):
            code: int = app(arguments, prog_name="libkd-sdk", standalone_mode=False) or 0
            if code == INTERRUPTED:
                raise KeyboardInterrupt  # of which typer has made a code
        if sys.stdout is not None:
            sys.stdout.flush()  # or Python finds out that the disk is full, and has no exit code for that
        return code
    except typer.TyperException as fault:
        return _fail(f"{fault.format_message()} (see --help) [{UsageError.code}]", UsageError.exit_code)
    except LibkdError as fault:
        return _fail(f"{fault} [{fault.code}]", fault.exit_code)
    except (BrokenPipeError, SystemExit):  # which typer makes of it: the reader of the output has enough
        _drop_output()
        return 0
    except KeyboardInterrupt:
        return _interrupted(arguments)
    except Exception as fault:
        if os.environ.get("LIBKD_DEBUG"):
            raise
        if isinstance(fault, OSError) and fault.errno is not None:
            _drop_output()
            failure = disk_failure(fault, "stdout")  # every other file that is written has its name in the error
            return _fail(f"{failure} [{failure.code}]", failure.exit_code)
        first = (str(fault).strip().splitlines() or [""])[0]
        if isinstance(fault, MemoryError) or "OutOfMemory" in type(fault).__name__:
            return _fail(f"too little memory ({first or type(fault).__name__}); use less of it, or allow more", 1)
        return _fail(f"unexpected {type(fault).__name__}: {first}; LIBKD_DEBUG=1 shows where", 1)


@contextmanager
def _together(arguments: list[str]) -> Iterator[None]:
    """Let the processes that torchrun has started for a command work together. Only the first one has an output."""
    if "WORLD_SIZE" not in os.environ or not SHARED.intersection(arguments[:1]):
        yield
        return
    with training_extra():
        from trainer import parallel
    with parallel.joined(), ExitStack() as stack:
        if not parallel.is_first():
            nowhere = stack.enter_context(open(os.devnull, "w"))  # noqa: PTH123
            stack.enter_context(redirect_stdout(nowhere))
            stderr.file = nowhere
        yield


def _is_told() -> bool:
    """Return whether another process tells the error."""
    parallel = sys.modules.get("trainer.parallel")
    return parallel is not None and parallel.is_told()


def _is_continued(arguments: list[str]) -> bool:
    """Return whether the command continues where it was interrupted."""
    return bool(CONTINUED.intersection(arguments[:1])) or (
        arguments[:1] == ["predict"] and any(argument.partition("=")[0] == "--out" for argument in arguments)
    )


def _interrupted(arguments: list[str]) -> int:
    how = "; run the same command again to continue" if _is_continued(arguments) else ""
    return _fail(f"interrupted{how}", INTERRUPTED)


def _fail(message: str, code: int) -> int:
    if sys.stderr is not None and not _is_told():  # print would take standard output for it
        with suppress(OSError):
            print(f"libkd-sdk: {' '.join(message.split())}", file=sys.stderr)
    return code


def _open_standard_streams() -> None:
    """Open the standard streams that the caller has closed, or the next file would get the number of one of them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def _drop_output() -> None:
    """Let the rest of the output vanish if it can't be written. Otherwise Python complains again when it ends."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

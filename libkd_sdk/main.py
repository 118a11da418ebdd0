"""`libkd-sdk`: one small file for each command. Whatever is heavy is imported inside the command that needs it.

Exit codes: 0 it worked; 2 something that the user can mend; 1 a failure that is not the user's.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata

import typer

from sdk.errors import LibkdError

from .commands import (
    benchmark,
    compare,
    demo,
    distill,
    evaluate,
    export,
    info,
    plan,
    precompute,
    predict,
    teach,
    verify,
)

INTERRUPTED = 130  # what typer makes of Ctrl-C, and shells of a program that it ended

app = typer.Typer(
    name="libkd-sdk",
    help="Teach a small vision transformer from light teachers, lower it, prove it, and run it on a device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("teach")(teach.teach)
app.command("precompute")(precompute.precompute)
app.command("distill")(distill.distill)
app.command("compare")(compare.compare)
app.command("plan")(plan.plan)
app.command("eval")(evaluate.evaluate)
app.command("export")(export.export)
app.command("predict")(predict.predict)
app.command("benchmark")(benchmark.benchmark)
app.command("verify")(verify.verify)
app.command("info")(info.info)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"libkd-sdk {metadata.version('libkd-sdk')}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line; the exit code."""
    try:
        code: int = app(arguments, prog_name="libkd-sdk", standalone_mode=False) or 0
        return code if code != INTERRUPTED else _fail("interrupted", code)
    except typer.TyperException as fault:
        return _fail(f"{fault.format_message()} (see --help)", 2)
    except LibkdError as fault:
        return _fail(str(fault), fault.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again when it ends
        return 0
    except Exception as fault:
        if os.environ.get("LIBKD_DEBUG"):
            raise
        first = (str(fault).strip().splitlines() or [""])[0]
        return _fail(f"unexpected {type(fault).__name__}: {first}; LIBKD_DEBUG=1 shows where", 1)


def _fail(message: str, code: int) -> int:
    print(f"libkd-sdk: {' '.join(message.split())}", file=sys.stderr)
    return code

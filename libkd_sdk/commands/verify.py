"""The command `libkd-sdk verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from sdk.bundle import verify as verify_bundle

from ..options import ThreadsOption
from ..output import JsonOption, show_facts, show_json


def verify(
    bundle: Annotated[Path, typer.Argument(help="The folder of a bundle.")],
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Check that a bundle is whole, and that it answers on this machine as it did when it was made.

    Example: libkd-sdk verify run/bundles/onnx
    """
    found = verify_bundle(bundle, threads=threads)
    if json:
        show_json({"bundle": str(bundle), "ok": True, **msgspec.to_builtins(found)})
        return
    facts = [
        ("files", f"{found.files}, each with the right content"),
        ("model file", "carries the manifest of this bundle"),
    ]
    if found.max_abs_difference is None:
        facts.append(("golden answers", "none in this bundle, so its answers were not checked"))
    else:
        facts.append(
            (
                "golden answers",
                f"{found.golden} reproduced to {found.max_abs_difference:.1e} (allowed {found.tolerance:.0e})",
            )
        )
    show_facts(f"{bundle}: ok", facts)

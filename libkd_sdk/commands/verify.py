"""The command `libkd-sdk verify`."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from sdk.bundle.trial import TIMEOUT_S
from sdk.bundle.verify import verify as verify_bundle

from ..options import BundleArgument, ThreadsOption, TrustedOption
from ..output import JsonOption, QuietOption, show_facts, show_json
from ..run_bundles import bundle_of
from .info import signature


def verify(
    bundle: BundleArgument,
    key: TrustedOption = None,
    threads: ThreadsOption = None,
    timeout: Annotated[
        float, typer.Option("--timeout", help="The seconds after which the engine's process is ended.")
    ] = TIMEOUT_S,
    memory_gb: Annotated[
        float | None,
        typer.Option(
            "--memory-gb",
            help="The gigabytes that the engine's process may use. The default is 4, and more for a large bundle and "
            "for many cores.",
        ),
    ] = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Check that a bundle is whole, and that it answers on this machine as it did when it was made.

    The engine runs in a process of its own, so a file that crashes it or never ends does no harm. With --key, the
    signature is checked before anything is run.

    Example: libkd-sdk verify run/bundles/onnx
    """
    bundle = bundle_of(bundle)
    found = verify_bundle(bundle, threads=threads, trusted=key or None, timeout_s=timeout, memory_gb=memory_gb)
    if json:
        show_json({"bundle": str(bundle), "ok": True, **msgspec.to_builtins(found)})
        return
    facts = [
        ("signature", signature(found.signed)),
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

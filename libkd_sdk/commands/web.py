"""The command `libkd-sdk web`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sdk.bundle import Bundle
from sdk.errors import UsageError

from ..options import BundleArgument, TrustedOption
from ..output import JsonOption, show_facts, show_json
from ..pages.web_app import check_place, write_app
from ..run_bundles import bundle_of
from ..web_runtime import PACKAGE, VERSION, runtime_files


def web(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Option("--out", help="The folder of the app. An app that is there is replaced.")],
    runtime: Annotated[
        Path | None,
        typer.Option(
            "--runtime",
            help=f"The npm package {PACKAGE} {VERSION}: its folder, or its archive. By default it is fetched from the "
            "npm registry once, and kept in ~/.cache/libkd-sdk.",
        ),
    ] = None,
    key: TrustedOption = None,
    json: JsonOption = False,
) -> None:
    """Write a web app that predicts in the browser, on the device of who opens it.

    The folder holds the page, the bundle, and ONNX Runtime for browsers. Any server of files can serve it. The bundle
    has to be one for ONNX Runtime.

    Example: libkd-sdk web run/bundles/onnx --out app/
    """
    check_place(out)
    opened = Bundle.open(bundle_of(bundle), trusted=key or None)
    if opened.target != "onnx":
        raise UsageError(f"{opened.path}: a bundle for {opened.target}; browsers run those for onnx, so export one")
    if opened.path.resolve() in out.resolve().parents:
        raise UsageError(
            f"{out}: lies in the bundle, which would then hold a stranger; choose another place for the app"
        )
    files = write_app(opened, runtime_files(runtime), out)
    size = sum(map(len, files.values()))
    if json:
        show_json({"folder": str(out), "files": sorted(files), "bytes": size})
        return
    serve = f"python -m http.server --bind 127.0.0.1 --directory {shlex.quote(str(out))} 8000"
    show_facts(
        f"{out}: {opened.manifest.name}, {len(files)} files, {size / 1e6:.1f} MB",
        [
            ("serve it", serve),
            ("and open", "http://localhost:8000"),
            ("elsewhere", "use https: over plain http, browsers compute no hashes, so the page can't check the bundle"),
            ("threads", "the page has several once it was loaded again; docs/web.md says which headers do it at once"),
        ],
    )

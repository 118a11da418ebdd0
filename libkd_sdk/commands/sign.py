"""The command `libkd-sdk sign`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdk.bundle.keys import read_private
from sdk.bundle.writing import sign as sign_bundle

from ..output import JsonOption, show_facts, show_json


def sign(
    bundle: Annotated[Path, typer.Argument(help="The folder of a bundle.")],
    key: Annotated[Path, typer.Option("--key", help="The private key that libkd-sdk keygen wrote.")],
    json: JsonOption = False,
) -> None:
    """Sign a bundle, so that those who trust the key know that nobody changed it.

    The bundle is checked as it is when it is opened, but not run. A signature that it has is replaced.

    Example: libkd-sdk sign run/bundles/onnx --key release.key
    """
    private = read_private(key)
    sign_bundle(bundle, private)
    if json:
        show_json({"bundle": str(bundle), "key": private.id})
        return
    show_facts(f"{bundle}: signed", [("key", private.id)])

"""The command `libkd-sdk keygen`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdk.bundle.keys import new_key

from ..output import JsonOption, show_facts, show_json


def keygen(
    name: Annotated[Path, typer.Argument(help="The file of the private key. The public key gets .pub at its end.")],
    json: JsonOption = False,
) -> None:
    """Make a pair of keys: a private one that signs bundles, and a public one that checks them.

    Keep the private key secret, and give the public key to those who get your bundles. No file is overwritten.

    Example: libkd-sdk keygen release.key
    """
    private, public, identity = new_key(name)
    if json:
        show_json({"key": identity, "private": str(private), "public": str(public)})
        return
    show_facts(
        f"key {identity}",
        [("private", f"{private}, for who signs"), ("public", f"{public}, for those who get bundles")],
    )

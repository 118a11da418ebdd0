"""The signature of a bundle: the file `bundle.sig` beside `bundle.json`. spec/bundle.md describes it.

It covers the exact bytes of `bundle.json`, which holds the hashes of all other files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from ..errors import BundleError, SignatureError
from .keys import PrivateKey, PublicKey
from .manifest import FORMAT, MANIFEST

SIGNATURE = "bundle.sig"
MAX_SIGNATURE_BYTES = 4096
DOMAIN = f"{FORMAT}\n".encode()
"""What is signed begins with this, so that a signature of something else can't be taken for one of a bundle."""


class SignatureFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `bundle.sig`.

    Attributes:
        key: the identity of the key: the first 8 bytes of the SHA-256 of the raw public key, in hexadecimal.
        signature: 64 bytes; in the file, as base64.
    """

    algorithm: Literal["ed25519"] = "ed25519"
    key: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class Signed(msgspec.Struct, frozen=True):
    """The state of a bundle that has a signature.

    Attributes:
        key: the identity of the key, as `bundle.sig` names it.
        verified: True if the signature was checked with a trusted key. If not, anybody may have written `key`.
    """

    key: str
    verified: bool


def signature_of(manifest: bytes, key: PrivateKey) -> bytes:
    """Return the content of `bundle.sig` for the bytes of `bundle.json`."""
    return msgspec.json.encode(SignatureFile(key=key.id, signature=key.sign(DOMAIN + manifest))) + b"\n"


def check_signature(
    folder: Path, manifest: bytes, content: bytes | None, trusted: Sequence[PublicKey] | None
) -> Signed | None:
    """Return who signed a bundle, or None if nobody did.

    Args:
        folder: the bundle, for messages.
        manifest: the bytes of `bundle.json`.
        content: the bytes of `bundle.sig`, or None if there is no such file.
        trusted: the keys that may have signed it; None accepts every bundle.

    Raises:
        BundleError: `bundle.sig` is not a signature file.
        SignatureError: there are trusted keys, and the bundle is unsigned or none of them signed it.
    """
    if content is None:
        if trusted is None:
            return None
        raise SignatureError(f"{folder}: not signed; get it from who signs, or sign it: libkd-sdk sign")
    try:
        signed = msgspec.json.decode(content, type=SignatureFile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise BundleError(f"{folder}: {SIGNATURE} is not a signature ({fault}); remove it, or sign again") from fault
    if trusted is None:
        return Signed(signed.key, False)
    named = [key for key in trusted if key.id == signed.key]
    if not named:
        known = ", ".join(key.id for key in trusted)
        raise SignatureError(f"{folder}: signed with the key {signed.key}, which is none of the trusted ones ({known})")
    if not any(key.accepts(signed.signature, DOMAIN + manifest) for key in named):
        raise SignatureError(
            f"{folder}: {MANIFEST} is not what the key {signed.key} signed; don't use it, and get it again"
        )
    return Signed(signed.key, True)

"""Keys for signing bundles: Ed25519, in PEM files as OpenSSL writes them. `cryptography` is imported on first use."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ..errors import UsageError, import_failure
from ..files import disk_failures, read_regular

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PASSPHRASE = "LIBKD_KEY_PASSPHRASE"
"""The environment variable with the passphrase of an encrypted private key."""

MAX_KEY_BYTES = 64 * 2**10

Key: TypeAlias = str | os.PathLike[str] | bytes
"""The path of a PEM file, or the content of one as bytes."""


class PrivateKey(NamedTuple):
    """A key that signs, and the identity of its public half."""

    id: str
    secret: Ed25519PrivateKey

    def sign(self, message: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return self.secret.sign(message)


class PublicKey(NamedTuple):
    """A key that checks signatures."""

    id: str
    public: Ed25519PublicKey

    def accepts(self, signature: bytes, message: bytes) -> bool:
        """Return whether the private half of this key made the signature of this message."""
        from cryptography.exceptions import InvalidSignature

        try:
            self.public.verify(signature, message)
        except InvalidSignature:
            return False
        return True


def new_key(path: str | os.PathLike[str]) -> tuple[Path, Path, str]:
    """Write a new private key to `path`, readable only for its owner, and its public half to `path` with `.pub`.

    Returns:
        The two paths, and the identity of the key.

    Raises:
        UsageError: one of the files exists. Nothing is overwritten.
        FileError: a file can't be written.
        EngineMissing: `cryptography` is not installed.
    """
    _need_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private, public = Path(path), Path(f"{os.fspath(path)}.pub")
    for file in (private, public):
        if os.path.lexists(file):
            raise UsageError(f"{file}: exists, and a key is never overwritten; choose another name")
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    open_half = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _write_new(private, secret, 0o600)
    try:
        _write_new(public, open_half, 0o644)
    except BaseException:
        private.unlink()
        raise
    return private, public, _identity(key.public_key())


def read_private(key: Key) -> PrivateKey:
    """Read a private key. The passphrase of an encrypted one is taken from the environment, `LIBKD_KEY_PASSPHRASE`.

    Raises:
        UsageError: it can't be read, or is something else.
        EngineMissing: `cryptography` is not installed.
    """
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    name, pem = _read(key)
    passphrase = os.environ.get(PASSPHRASE) if b"ENCRYPTED" in pem else None
    if b"ENCRYPTED" in pem and passphrase is None:
        raise UsageError(f"{name}: is encrypted; put its passphrase into the environment variable {PASSPHRASE}")
    try:
        found = load_pem_private_key(pem, None if passphrase is None else os.fsencode(passphrase))
    except (ValueError, TypeError, UnsupportedAlgorithm) as fault:
        why = f"the passphrase in {PASSPHRASE} does not open it" if passphrase is not None else "not a private key"
        raise UsageError(f"{name}: {why}; give the file that libkd-sdk keygen wrote without .pub") from fault
    if not isinstance(found, Ed25519PrivateKey):
        raise UsageError(f"{name}: a private key of another kind; bundles are signed with Ed25519")
    return PrivateKey(_identity(found.public_key()), found)


def read_public(keys: Key | Iterable[Key]) -> tuple[PublicKey, ...]:
    """Read one or several public keys.

    Raises:
        UsageError: there is none, or one can't be read, or is something else.
        EngineMissing: `cryptography` is not installed.
    """
    _need_cryptography()
    several = [keys] if isinstance(keys, str | bytes | os.PathLike) else list(keys)
    if not several:
        raise UsageError("no trusted key is given, so no bundle could be opened; name a public key, or leave it out")
    return tuple(map(_read_public, several))


def _read_public(key: Key) -> PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    name, pem = _read(key)
    if b"PRIVATE KEY" in pem:
        raise UsageError(f"{name}: a private key, which belongs only to who signs; give the file with .pub")
    try:
        found = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise UsageError(f"{name}: not a public key in PEM; give the .pub file that libkd-sdk keygen wrote") from fault
    if not isinstance(found, Ed25519PublicKey):
        raise UsageError(f"{name}: a public key of another kind; bundles are signed with Ed25519")
    return PublicKey(_identity(found), found)


def _identity(key: Ed25519PublicKey) -> str:
    """Return the first 8 bytes of the SHA-256 of the raw public key, as 16 hexadecimal digits."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _read(key: Key) -> tuple[str, bytes]:
    """Return a name for messages, and the PEM."""
    if isinstance(key, bytes):
        return "<key>", key
    try:
        pem = read_regular(key, MAX_KEY_BYTES)
    except (OSError, ValueError) as fault:
        why = fault.strerror if isinstance(fault, OSError) else fault
        raise UsageError(f"{os.fspath(key)}: can't be read as a key ({why})") from fault
    if pem is None:
        raise UsageError(f"{os.fspath(key)}: too large for a key; give a PEM file")
    return os.fspath(key), pem


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that did not exist before."""
    with disk_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                path.unlink()
            raise


def _need_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except Exception as fault:
        raise import_failure("signatures", fault, "[sign]") from fault

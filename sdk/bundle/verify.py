"""The check of a bundle on the machine where it stands."""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec

from runtimes.base import Elsewhere

from ..errors import EngineMissing
from .folder import Bundle
from .golden import GOLDEN, TOLERANCE
from .keys import Key
from .signature import Signed
from .trial import TIMEOUT_S, Limits, try_in_child


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `verify`.

    Attributes:
        files: number of files with the right content.
        golden: number of golden images; if there are none, the last two are None.
        max_abs_difference: largest distance of a probability from the golden one.
        tolerance: largest allowed distance.
        signed: the key that signed it, and whether that was checked; None without a signature.
    """

    files: int
    golden: int
    max_abs_difference: float | None
    tolerance: float | None
    signed: Signed | None


def verify(
    bundle: Bundle | str | os.PathLike[str],
    *,
    threads: int | None = None,
    trusted: Key | Iterable[Key] | None = None,
    timeout_s: float = TIMEOUT_S,
    memory_gb: float | None = None,
) -> Verification:
    """Check a bundle on this machine: its files again, the manifest inside the model file, and the golden answers.

    Its engine runs in a child process. A file that crashes or hangs the engine is a `ProofError`.

    Args:
        threads: number of threads that the engine computes with; by default, the cores that this process may use.
        trusted: the public key that must have signed it, or several of which one must have; see `Bundle.open`.
        timeout_s: seconds after which the child is ended.
        memory_gb: gigabytes that the child may use; by default 4, eight times the size of the bundle's files, and 0.05
            for each core. Only Linux holds a process to it.

    Raises:
        BundleError: a file is damaged, or the model file carries another manifest.
        SignatureError: no trusted key signed it.
        ProofError: the golden answers are not reproduced here, or the engine crashed or reached a limit.
        EngineMissing: the engine is not installed, or the bundle only runs elsewhere; then the message says how to
            verify it there.
        EngineError: the engine fails.
        UsageError: an argument makes no sense.
    """
    bundle = Bundle.open(bundle.path if isinstance(bundle, Bundle) else bundle, trusted=trusted)
    golden = bundle.golden()
    if there := bundle.elsewhere:
        raise EngineMissing(f"{bundle.path}: unverified on device: {_how_to_verify(bundle, there)}")
    difference = try_in_child(bundle, threads, Limits(timeout_s, memory_gb))
    return Verification(
        files=len(bundle.manifest.files),
        golden=0 if golden is None else len(golden.pixels),
        max_abs_difference=difference,
        tolerance=None if golden is None else TOLERANCE[bundle.precision],
        signed=bundle.signed,
    )


def _how_to_verify(bundle: Bundle, there: Elsewhere) -> str:
    whole = f"its {len(bundle.manifest.files)} files are whole, but it runs on {there.devices}"
    if GOLDEN not in bundle.manifest.files:
        return f"{whole}, and it has no golden images to verify it with; export again and include some"
    return (
        f"{whole}; verify it there: predict `pixels` of {GOLDEN} with {there.runtime}, and compare with its "
        f"`probabilities`, from which none may differ by more than {TOLERANCE[bundle.precision]:g}"
    )

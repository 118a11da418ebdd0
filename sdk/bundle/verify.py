"""The check of a bundle on the machine where it stands."""

from __future__ import annotations

import os

import msgspec

from .folder import Bundle
from .golden import TOLERANCE


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `verify`.

    Attributes:
        files: number of files with the right content.
        golden: number of golden images; if there are none, the last two are None.
        max_abs_difference: largest distance of a probability from the golden one.
        tolerance: largest allowed distance.
    """

    files: int
    golden: int
    max_abs_difference: float | None
    tolerance: float | None


def verify(bundle: Bundle | str | os.PathLike[str], *, threads: int | None = None) -> Verification:
    """Check a bundle on this machine: its files again, the manifest inside the model file, and the golden answers.

    Raises:
        BundleError: a file is damaged, or the model file carries another manifest.
        ProofError: the golden answers are not reproduced here.
        EngineError: the engine is missing or fails.
    """
    bundle = Bundle.open(bundle.path if isinstance(bundle, Bundle) else bundle)
    session = bundle.session(threads)
    try:
        difference = bundle.self_test(session)
        golden = bundle.golden()
    finally:
        session.close()
    return Verification(
        files=len(bundle.manifest.files),
        golden=0 if golden is None else len(golden.pixels),
        max_abs_difference=difference,
        tolerance=None if golden is None else TOLERANCE[bundle.precision],
    )

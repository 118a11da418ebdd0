"""Golden images: a few images as pixels with the probabilities that they should get, carried inside a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from runtimes.base import Session, first_line

from ..errors import BundleError, ProofError
from ..images import Pixels
from .manifest import MANIFEST, Manifest

GOLDEN = "golden.safetensors"

TOLERANCE = {"fp32": 1e-4, "fp16": 0.05, "int8": 0.1}
"""The largest allowed distance of a probability from the golden one, by precision, on any machine; at fp32 also from
PyTorch's. Below fp32, a CPU without 8-bit or 16-bit arithmetic rounds differently, but a broken model is off by far
more. `docs/devices.md` has what was measured."""


class Golden(msgspec.Struct, frozen=True):
    """Images as `pixels` [n, height, width, 3], and the `probabilities` [n, classes] that they should get.

    At fp32 these are PyTorch's; below, the lowered model's own on the machine that made it.
    """

    pixels: Pixels
    probabilities: NDArray[np.float32]

    def max_abs_difference(self, session: Session) -> float:
        """Return the largest distance of the session's probabilities from these; NaN if it answers with NaN."""
        return float(np.abs(session.run(self.pixels) - self.probabilities).max())

    def write(self, folder: Path) -> None:
        """Write the images and probabilities into a bundle's folder."""
        from safetensors.numpy import save

        tensors: dict[str, NDArray[Any]] = {"pixels": self.pixels, "probabilities": self.probabilities}
        (folder / GOLDEN).write_bytes(save(tensors))  # `save_file` would let only the file's owner read it


def read_golden(content: bytes, place: str, manifest: Manifest) -> Golden:
    """Return the golden images that a file holds.

    Args:
        content: the bytes of the file.
        place: the path of the bundle, for errors.

    Raises:
        BundleError: the file holds something else.
    """
    from safetensors.numpy import load

    try:
        tensors = load(content)
        golden = Golden(tensors["pixels"], tensors["probabilities"])
    except Exception as fault:  # besides its own errors, those of numpy, which does not know every dtype of the format
        raise BundleError(f"{place}: {GOLDEN} can't be read ({first_line(fault)}); export again") from fault
    input, count = manifest.input, len(golden.pixels) if golden.pixels.ndim else 0
    for array, dtype, shape in (
        (golden.pixels, np.uint8, (count, input.height, input.width, 3)),
        (golden.probabilities, np.float32, (count, len(manifest.labels))),
    ):
        if array.dtype != dtype or array.shape != shape or not count:
            raise BundleError(f"{place}: {GOLDEN} does not fit {MANIFEST}; export again")
    return golden


def check_golden(golden: Golden, session: Session, folder: Path, precision: str) -> float:
    """Return the largest difference from the golden probabilities on this machine.

    Raises:
        ProofError: it is beyond what the precision allows.
        EngineError: the engine failed.
    """
    difference, tolerance = golden.max_abs_difference(session), TOLERANCE[precision]
    if not difference <= tolerance:
        raise ProofError(
            f"{folder}: golden answers are off by {difference:.2g} on this machine, more than {tolerance:g}; "
            "export again with this engine's version, or choose another target"
        )
    return difference

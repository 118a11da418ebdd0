"""Check that this machine gives the pixels and the probabilities of the vectors, and by how much it differs.

    python tools/check_vectors.py [--vectors spec/vectors] [--bare] [--json] [PART ...]

A part is `pixels`, or the name of a folder in `bundles`; without any, all are checked. Each gives one line. The program
needs only what predicts, so that it runs on a device: the base install, and the engines of the bundles.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from runtimes.engines import open_bare
from sdk.bundle import Bundle
from sdk.images import Input, pixels

PIXELS = "pixels"
WIDTHS = (10, 9, 6, 10, 8, 7)


class Row(msgspec.Struct, kw_only=True):
    """The result for one part.

    Attributes:
        part: `pixels`, or the name of a bundle.
        images: the number of images that were compared, for pixels with each input.
        difference: the largest difference of a value of a pixel, or of a probability.
        same: the share of images with the same pixels, or with the same top-1.
        golden: the largest difference from the bundle's own golden images, which `verify` limits; None for pixels.
    """

    part: str
    target: str
    precision: str
    images: int
    difference: float
    same: float
    golden: float | None = None
    seconds: float


def check_pixels(vectors: Path) -> Row:
    """Compare the pixels of every image for every input."""
    started = time.perf_counter()
    expected = load_file(vectors / "pixels.safetensors")
    inputs = json.loads((vectors / "vectors.json").read_text(encoding="utf-8"))["inputs"]
    files = sorted((vectors / "images").iterdir())
    differences = [
        int(np.abs(pixels(file, msgspec.convert(how, Input)).astype(int) - expected[f"{name}/{file.name}"]).max())
        for name, how in inputs.items()
        for file in files
    ]
    return Row(
        part=PIXELS,
        target="Pillow",
        precision="uint8",
        images=len(differences),
        difference=max(differences),
        same=float(np.mean(np.equal(differences, 0))),
        seconds=time.perf_counter() - started,
    )


def check_bundle(vectors: Path, name: str, bare: bool = False) -> Row:
    """Compare a bundle's answers to the expected pixels with the expected probabilities.

    Args:
        bare: call the engine as its own quick start shows, and not with our settings.
    """
    started = time.perf_counter()
    shown, expected = _expected(vectors, name)
    bundle = Bundle.open(vectors / "bundles" / name)
    golden = bundle.golden()
    run = open_bare(bundle.target, bundle.path, 1, bundle.precision) if bare else bundle.session(1).run
    found = np.concatenate([run(image[None]) for image in shown])
    assert golden is not None, f"{bundle.path}: has no golden images"
    return Row(
        part=name,
        target=bundle.target,
        precision=bundle.precision,
        images=len(shown),
        difference=float(np.abs(found - expected).max()),
        same=float((found.argmax(1) == expected.argmax(1)).mean()),
        golden=float(np.abs(run(golden.pixels) - golden.probabilities).max()),
        seconds=time.perf_counter() - started,
    )


def _expected(vectors: Path, bundle: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the pixels of the images for which the vectors have the bundle's answers, and these answers."""
    answers = load_file(vectors / "probabilities.safetensors")
    images = sorted(key.partition("/")[2] for key in answers if key.startswith(f"{bundle}/"))
    seen = load_file(vectors / "pixels.safetensors")
    return (
        np.stack([seen[f"cover/{image}"] for image in images]),
        np.stack([answers[f"{bundle}/{image}"] for image in images]),
    )


def line(*cells: str) -> str:
    """Return one line of the table."""
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()


def shown(row: Row) -> str:
    golden = "-" if row.golden is None else f"{row.golden:.1e}"
    return line(row.target, row.precision, golden, f"{row.difference:.1e}", f"{row.same:.1%}", f"{row.seconds:.1f}")


HEAD = line("engine", "precision", "golden", "vectors", "same", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", metavar="PART", nargs="*")
    parser.add_argument("--vectors", type=Path, default=Path(__file__).parents[1] / "spec" / "vectors")
    parser.add_argument("--json", action="store_true", help="print one line of JSON for each part")
    parser.add_argument("--bare", action="store_true", help="call the engines as their own quick starts show")
    arguments = parser.parse_args()
    vectors = arguments.vectors
    folders = sorted(folder.name for folder in (vectors / "bundles").iterdir())
    if not arguments.json:
        print(HEAD)
    for part in arguments.parts or [PIXELS, *folders]:
        row = check_pixels(vectors) if part == PIXELS else check_bundle(vectors, part, arguments.bare)
        print(msgspec.json.encode(row).decode() if arguments.json else shown(row), flush=True)


if __name__ == "__main__":
    main()

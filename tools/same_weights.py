"""Train the tests' tiny recipe and print a hash of each tensor file, to compare two checkouts.

    python tools/same_weights.py > before.txt        # in the checkout without your change
    python tools/same_weights.py > after.txt         # in the checkout with it
    diff before.txt after.txt

A refactoring must not change a single bit: same seed, same weights. The program runs `compare` of the checkout in which
it lies, on one thread of the CPU. This trains two teachers, fills the store of their logits, and trains the distilled
student and the students to compare it with. It takes less than a minute. Hashes from different machines or versions of
torch can't be compared.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["OMP_NUM_THREADS"] = "1"

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from clothes import TINY_RECIPE, unpack_clothes  # noqa: E402
from libkd_sdk.main import run  # noqa: E402

# Every group of operations that draws random numbers takes part.
RECIPE = TINY_RECIPE.replace("mixup = 0.8", "mixup = 0.8, operations = 2, erase = 0.2")


def tensors_hash(path: Path) -> str:
    """Return a hash of the names and the bytes of all tensors in a file; the file's own header is left out."""
    found = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        found.update(name.encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def main() -> int:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        data = unpack_clothes(place / "clothes")
        recipe = place / "recipe.toml"
        recipe.write_text(RECIPE, encoding="utf-8")
        common = ["--data", str(data), "--recipe", str(recipe), "--device", "cpu", "--seeds", "7"]
        sys.stdout, own = sys.stderr, sys.stdout  # tables are for people, hashes are for diff
        code = run(["compare", *common, "--out", str(place / "comparison")])
        sys.stdout = own
        for path in sorted((place / "comparison").rglob("*.safetensors")):
            print(path.relative_to(place / "comparison").as_posix(), tensors_hash(path))
    return code


if __name__ == "__main__":
    sys.exit(main())

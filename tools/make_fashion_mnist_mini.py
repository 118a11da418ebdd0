"""Make trainer/data/fashion_mnist_mini.zip: a balanced tenth of Fashion-MNIST as small PNG files.

    pip install pyoxipng zopfli
    apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb debian
    python tools/make_fashion_mnist_mini.py debian/usr/share/datasets/fashion-mnist trainer/data/fashion_mnist_mini.zip

The archive contains the first 800 images of each class of the training set and the first 200 of each class of the test
set, in the order of the original files. It has no dates, so that the same input gives the same bytes.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import oxipng
import zopfli.png
from PIL import Image

from trainer.data.named import FASHION_MNIST_LABELS, read_idx

PER_CLASS = {"train": 800, "test": 200}
FILES = {"train": "train", "test": "t10k"}


def png(pixels: np.ndarray) -> bytes:
    """Return the smallest PNG of a grey image: find the best row filters first, then the best packing of them."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    filtered = oxipng.optimize_from_memory(out.getvalue(), level=6)
    return min(filtered, zopfli.png.optimize(filtered, filter_strategies="p", num_iterations=5), key=len)


def main(source: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for split, prefix in FILES.items():
            images = read_idx(source / f"{prefix}-images-idx3-ubyte.gz")
            labels = read_idx(source / f"{prefix}-labels-idx1-ubyte.gz")
            for label, name in enumerate(FASHION_MNIST_LABELS):
                for number, index in enumerate(np.flatnonzero(labels == label)[: PER_CLASS[split]]):
                    entry = zipfile.ZipInfo(f"{split}/{name}/{number}.png")
                    entry.external_attr = 0o644 << 16
                    archive.writestr(entry, png(images[index]))
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

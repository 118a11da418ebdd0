"""Data sets by name."""

from __future__ import annotations

import gzip
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import DataError
from .split import Split, sample_ids

FASHION_MNIST_LABELS = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_MNIST_MINI = Path(__file__).parent / "fashion_mnist_mini.zip"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_STEM = {"train": "train", "test": "t10k"}
_IDX_UBYTE = 8


def fashion_mnist(root: Path | None) -> dict[str, Split]:
    """The full Fashion-MNIST (Xiao et al., 2017), 60,000 + 10,000: from `root`, Debian's folder, or the net.

    Raises:
        DataError: it is in none of these places and can't be downloaded.
    """
    folder = next(
        (place for place in (root, root and root / "FashionMNIST/raw", DEBIAN_FOLDER) if _has_all(place)), None
    )
    return _read_folder(folder or _download(root))


def _has_all(folder: Path | None) -> bool:
    return folder is not None and all(
        (folder / f"{stem}-{kind}-ubyte.gz").is_file()
        for stem in _STEM.values()
        for kind in ("images-idx3", "labels-idx1")
    )


def _download(root: Path | None) -> Path:
    from torchvision.datasets import FashionMNIST

    root = root or Path.home() / ".cache/libkd-sdk"
    try:
        FashionMNIST(str(root), download=True)
    except (OSError, RuntimeError) as fault:
        for folder in (root / "FashionMNIST/raw", root / "FashionMNIST"):
            with suppress(OSError):  # holds something, so it stays
                folder.rmdir()
        raise DataError(
            f"fashion-mnist is not in {root} or {DEBIAN_FOLDER}, and its download failed ({fault}); "
            "`apt-get install dataset-fashion-mnist`, or name a folder with its four .gz files by --root"
        ) from fault
    return root / "FashionMNIST/raw"


def _read_folder(folder: Path) -> dict[str, Split]:
    splits = {}
    for split, stem in _STEM.items():
        grey = read_idx(folder / f"{stem}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{stem}-labels-idx1-ubyte.gz")
        names = [f"{split}/{number:05d}" for number in range(len(labels))]
        images = torch.from_numpy(np.repeat(grey[..., None], 3, axis=3))
        splits[split] = Split(images, torch.from_numpy(labels.astype(np.int64)), sample_ids(names), names)
    return splits


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An array from a gzipped IDX file of unsigned bytes, the format of MNIST.

    Raises:
        DataError: the file is not that.
    """
    try:
        data = gzip.decompress(path.read_bytes())
        kind, rank = data[2], data[3]
        shape = np.frombuffer(data, ">i4", rank, 4)
        if data[:2] != b"\0\0" or kind != _IDX_UBYTE:
            raise ValueError("not unsigned bytes in IDX format")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, IndexError, ValueError) as fault:
        raise DataError(f"{path}: {fault}; fetch it again") from fault

"""Datasets that are known by a name."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torchvision.datasets import CIFAR10, CIFAR100, FashionMNIST

from ..errors import DataError
from .images import MemoryImages
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
CACHE = "~/.cache/libkd-sdk"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_STEM = {"train": "train", "test": "t10k"}
_IDX_UBYTE = 8


class Named(NamedTuple):
    """A named dataset. All its images have the same size, and its classes have an order of their own."""

    train: Split
    test: Split
    labels: tuple[str, ...]


def fashion_mnist(root: Path | None) -> Named:
    """Return the full Fashion-MNIST (Xiao et al., 2017), 60,000 + 10,000 images.

    It is read from `root` or from Debian's folder; if it is in neither, it is downloaded to `root` or the cache.

    Raises:
        DataError: the files are in none of these places and can't be downloaded.
    """
    folder = next(
        (place for place in (root, root and root / "FashionMNIST/raw", DEBIAN_FOLDER) if _has_all(place)), None
    )
    return _read_folder(folder or _download(Path(root or CACHE).expanduser()))


def cifar(kind: type[CIFAR10], root: Path | None) -> Named:
    """Return CIFAR-10 or CIFAR-100 (Krizhevsky, 2009), 50,000 + 10,000 images, from `root` or a download.

    Raises:
        DataError: the files in `root` are incomplete and can't be downloaded.
    """
    root = Path(root or CACHE).expanduser()
    try:
        # The files are pickles, which can run code. torchvision opens only those that have the published MD5 sum.
        train, test = (kind(root, train=is_train, download=True) for is_train in (True, False))
    except (OSError, RuntimeError) as fault:
        raise DataError(
            f"{kind.base_folder} is not complete in {root}, and its download failed ({fault}); "
            f"download {kind.url} and give its folder with --root"
        ) from fault
    labels = tuple(train.classes)
    return Named(_numbered("train", train.data, train.targets), _numbered("test", test.data, test.targets), labels)


NAMED: dict[str, Callable[[Path | None], Named]] = {
    "fashion-mnist": fashion_mnist,
    "cifar10": partial(cifar, CIFAR10),
    "cifar100": partial(cifar, CIFAR100),
}
"""The named datasets: by name, a function that reads one from the given folder, or downloads it there."""


def _has_all(folder: Path | None) -> bool:
    return folder is not None and all(
        (folder / f"{stem}-{kind}-ubyte.gz").is_file()
        for stem in _STEM.values()
        for kind in ("images-idx3", "labels-idx1")
    )


def _download(root: Path) -> Path:
    try:
        FashionMNIST(str(root), download=True)
    except (OSError, RuntimeError) as fault:
        for folder in (root / "FashionMNIST/raw", root / "FashionMNIST"):
            with suppress(OSError):  # a folder that is not empty stays
                folder.rmdir()
        raise DataError(
            f"fashion-mnist is not in {root} or {DEBIAN_FOLDER}, and its download failed ({fault}); "
            "`apt-get install dataset-fashion-mnist`, or give a folder with its four .gz files with --root"
        ) from fault
    return root / "FashionMNIST/raw"


def _read_folder(folder: Path) -> Named:
    splits = {}
    for split, stem in _STEM.items():
        grey = read_idx(folder / f"{stem}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{stem}-labels-idx1-ubyte.gz")
        splits[split] = _numbered(split, np.repeat(grey[..., None], 3, axis=3), labels)
    return Named(**splits, labels=FASHION_MNIST_LABELS)


def _numbered(split: str, images: NDArray[np.uint8], labels: ArrayLike) -> Split:
    """Return a split of images without names. Each is named after its position in the split."""
    classes = torch.from_numpy(np.array(labels, np.int64))
    names = [f"{split}/{number:05d}" for number in range(len(classes))]
    return Split(MemoryImages(torch.from_numpy(np.ascontiguousarray(images))), classes, sample_ids(names), names)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the array in a gzipped IDX file of unsigned bytes, the format of MNIST.

    Raises:
        DataError: the file is missing, or not such a file.
    """
    try:
        data = gzip.decompress(path.read_bytes())
        kind, rank = data[2], data[3]
        shape = np.frombuffer(data, ">i4", rank, 4)
        if data[:2] != b"\0\0" or kind != _IDX_UBYTE:
            raise ValueError("not unsigned bytes in IDX format")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, IndexError, ValueError) as fault:
        raise DataError(f"{path}: {fault}; download it again") from fault

"""The named datasets: read from their own files, and the messages for damaged files."""

import gzip
import hashlib
import pickle

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from trainer.data import load
from trainer.data.named import FASHION_MNIST_LABELS, cifar, read_idx
from trainer.errors import DataError
from trainer.recipe import DataRecipe


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_fashion_mnist_is_read_from_its_own_files(tmp_path):
    draw = np.random.default_rng(0)
    for stem, count in (("train", 100), ("t10k", 20)):
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte.gz", draw.integers(0, 256, (count, 28, 28), np.uint8))
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype(np.uint8))
    data = load(["fashion-mnist"], root=tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (90, 10, 20)
    assert data.labels == FASHION_MNIST_LABELS
    assert data.test.pixels().shape == (20, 28, 28, 3)
    original = read_idx(tmp_path / "t10k-images-idx3-ubyte.gz")
    assert np.array_equal(data.test.pixels()[..., 2].numpy(), original)
    with pytest.raises(DataError, match=r"leave data\.size out"):
        load(["fashion-mnist"], DataRecipe(size=32), root=tmp_path)


def test_a_named_dataset_may_be_used_in_part_and_with_more_images(clothes, tmp_path):
    draw = np.random.default_rng(0)
    for stem, count in (("train", 100), ("t10k", 20)):
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte.gz", draw.integers(0, 256, (count, 28, 28), np.uint8))
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype(np.uint8))
    data = load(["fashion-mnist"], DataRecipe(labels=1 / 3), root=tmp_path, unlabelled=[clothes / "test"])
    assert (len(data.train), len(data.unlabelled), len(data.test)) == (30, 60 + 24, 20)
    with pytest.raises(DataError, match=r"raise data\.memory_gb"):
        load(["fashion-mnist"], DataRecipe(memory_gb=0), root=tmp_path, unlabelled=[clothes / "test"])


def write_batch(path, content):
    """Write a file in the format of CIFAR. Return its MD5 sum."""
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_cifar_is_read_from_its_own_files_if_they_are_complete(tmp_path):
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    planes = np.random.default_rng(0).integers(0, 256, (30, 3 * 32 * 32), np.uint8)
    labels = [number % 3 for number in range(30)]
    names = ["airplane", "automobile", "bird"]

    class SmallCIFAR(CIFAR10):
        url = (tmp_path / "nowhere.tar.gz").as_uri()
        train_list = (("one", write_batch(folder / "one", {"data": planes[:20], "labels": labels[:20]})),)
        test_list = (("two", write_batch(folder / "two", {"data": planes[20:], "labels": labels[20:]})),)
        meta = {  # noqa: RUF012
            "filename": "meta",
            "key": "label_names",
            "md5": write_batch(folder / "meta", {"label_names": names}),
        }

    train, test, classes = cifar(SmallCIFAR, tmp_path)
    assert classes == tuple(names)
    assert train.names[19] == "train/00019"
    assert test.labels.tolist() == labels[20:]
    assert np.array_equal(test.pixels()[0].numpy(), planes[20].reshape(3, 32, 32).transpose(1, 2, 0))

    (folder / "two").write_bytes((folder / "two").read_bytes() + b"x")
    with pytest.raises(DataError, match=r"cifar-10-batches-py is not complete in .* with --root"):
        cifar(SmallCIFAR, tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"not gzip", gzip.compress(b"\0\0\x08"), gzip.compress(b"\0\0\x0d\x01\0\0\0\1z")],
    ids=["empty", "not-gzip", "too-short", "another-type"],
)
def test_a_damaged_idx_file_is_named(tmp_path, content):
    path = tmp_path / "x.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.gz: .*download it again"):
        read_idx(path)

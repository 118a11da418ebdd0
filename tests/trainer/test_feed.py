"""`Images.feed` gives the same pixels from memory and from files, with any number of workers."""

import tarfile
import zipfile

import pytest
import torch

from clothes import unpack_clothes
from trainer.data import load
from trainer.errors import DataError
from trainer.recipe import DataRecipe

CPU = torch.device("cpu")


def pack(folder, kind):
    """Return the folder itself, or an archive of it."""
    path = folder if kind == "folder" else folder.with_suffix(f".{kind}")
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in folder.rglob("*.png"):
                archive.write(file, file.relative_to(folder))
    elif kind in ("tar", "tar.gz"):
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
            archive.add(folder, "photos")
    return path


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return unpack_clothes(tmp_path_factory.mktemp("many") / "photos", train=200, test=8)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz"])
def test_the_pixels_depend_only_on_the_chunk(many, kind):
    resident = load([many]).train
    files = load([pack(many, kind)], DataRecipe(memory_gb=0)).train
    chunks = [*torch.randperm(len(resident)).split(64), torch.tensor([5, 5, 0])]
    state = torch.get_rng_state()
    expected = list(resident.images.feed(chunks, CPU))
    assert [len(pixels) for pixels in expected] == [len(chunk) for chunk in chunks]
    assert torch.equal(expected[-1][1], resident.pixels()[5])
    for workers in (0, 1, 2):
        given = list(files.images.feed(chunks, CPU, workers=workers))
        assert all(map(torch.equal, given, expected))
    assert torch.equal(torch.get_rng_state(), state)


def test_no_chunks_give_no_pixels(clothes):
    for memory_gb in (8, 0):
        assert list(load([clothes], DataRecipe(memory_gb=memory_gb)).train.images.feed([], CPU)) == []


def test_a_consumer_may_stop_early(many):
    files = load([many], DataRecipe(memory_gb=0)).train
    chunks = torch.arange(len(files)).split(8)
    for _ in range(2):
        pixels = next(files.images.feed(chunks, CPU, workers=2))
        assert pixels.shape == (8, 28, 28, 3)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["damaged", "gone"])
@pytest.mark.slow
def test_an_image_that_became_unreadable_is_named(tmp_path, workers, kind):
    folder = unpack_clothes(tmp_path)
    files = load([folder], DataRecipe(memory_gb=0)).train
    victim = folder / files.names[40]
    victim.unlink() if kind == "gone" else victim.write_bytes(victim.read_bytes()[:80])
    with pytest.raises(DataError) as caught:
        list(files.images.feed(torch.arange(len(files)).split(8), CPU, workers=workers))
    assert str(caught.value).startswith(f"{files.names[40]}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pixels_arrive_on_the_requested_device(many):
    device = torch.device("cuda")
    files = load([many], DataRecipe(memory_gb=0)).train.to(device)
    resident = load([many]).train.to(device)
    chunks = torch.arange(len(files), device=device).split(64)
    for given, expected in zip(files.images.feed(chunks, device), resident.images.feed(chunks, device), strict=True):
        assert given.device == files.labels.device == expected.device
        assert torch.equal(given, expected)

"""`Images.feed` gives the same pixels from memory and from files, with any number of workers."""

import multiprocessing
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from clothes import CLASSES, unpack_clothes
from folders import kinds, lay, packed
from trainer.data import load
from trainer.errors import DataError
from trainer.recipe import DataRecipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return unpack_clothes(tmp_path_factory.mktemp("many") / "photos", train=200, test=8)


@kinds
def test_the_pixels_depend_only_on_the_chunk(many, tmp_path, kind):
    resident = load([many]).train
    files = load([packed(many, kind, tmp_path)], DataRecipe(memory_gb=0)).train
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
def test_an_image_that_became_unreadable_is_named(tmp_path, workers, kind):
    folder = unpack_clothes(tmp_path)
    files = load([folder], DataRecipe(memory_gb=0)).train
    victim = folder / files.names[40]
    victim.unlink() if kind == "gone" else victim.write_bytes(victim.read_bytes()[:80])
    with pytest.raises(DataError) as caught:
        list(files.images.feed(torch.arange(len(files)).split(8), CPU, workers=workers))
    assert str(caught.value).startswith(f"{files.names[40]}: ")
    assert "\n" not in str(caught.value)
    assert multiprocessing.active_children() == []


def test_a_worker_outlives_sigterm_which_a_cluster_sends_to_all_processes(many):
    files = load([many], DataRecipe(memory_gb=0)).train
    chunks = torch.arange(len(files)).split(2)
    given = files.feed(chunks, workers=1)
    first = next(given)
    (worker,) = multiprocessing.active_children()
    worker.terminate()
    assert torch.equal(torch.cat([first, *given]), files.pixels())
    assert len(first) == 2
    assert multiprocessing.active_children() == []


class TestReplaced:
    @pytest.fixture
    def folder(self, tmp_path):
        """A dataset of files that all have the same length."""
        draw = np.random.default_rng(0)
        for place in (f"{split}/{name}/{n}.bmp" for split in ("train", "test") for name in CLASSES for n in range(20)):
            lay(tmp_path / "data", place)
            Image.fromarray(draw.integers(0, 256, (28, 28, 3), np.uint8)).save(tmp_path / "data" / place)
        return tmp_path / "data"

    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
    def test_an_image_that_was_replaced_is_named(self, folder, tmp_path, kind, workers):
        source = packed(folder, kind, tmp_path)
        files = load([source], DataRecipe(memory_gb=0)).train
        victim, other = files.names[40], files.names[0]
        before, after = (folder / victim).read_bytes(), (folder / other).read_bytes()
        path = folder / victim if kind == "folder" else source
        path.write_bytes(path.read_bytes().replace(before, after))
        with pytest.raises(DataError) as caught:
            list(files.images.feed(torch.arange(len(files)).split(8), torch.device("cpu"), workers=workers))
        said = "Bad CRC" if kind == "zip" else "shows another image than when this command began"
        assert str(caught.value).startswith(f"{victim}: {said}")

    def test_it_is_named_as_well_when_images_move_into_memory(self, folder):
        files = load([folder], DataRecipe(memory_gb=0)).train
        shutil.copy(folder / files.names[0], folder / files.names[40])
        with pytest.raises(DataError, match=f"^{files.names[40]}: shows another image"):
            files.in_memory()
        (folder / files.names[40]).unlink()
        with pytest.raises(DataError, match=f"^{files.names[40]}: No such file"):
            files.in_memory()

    def test_other_bytes_of_the_same_image_are_the_same_image(self, folder):
        files = load([folder], DataRecipe(memory_gb=0)).train
        place = folder / files.names[40]
        Image.open(place).save(place, "PNG")
        assert torch.equal(files.pixels(), load([folder]).train.pixels())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pixels_arrive_on_the_requested_device(many):
    device = torch.device("cuda")
    files = load([many], DataRecipe(memory_gb=0)).train.to(device)
    resident = load([many]).train.to(device)
    chunks = torch.arange(len(files), device=device).split(64)
    for given, expected in zip(files.images.feed(chunks, device), resident.images.feed(chunks, device), strict=True):
        assert given.device == files.labels.device == expected.device
        assert torch.equal(given, expected)

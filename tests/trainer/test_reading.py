"""Images are read by one thread as long as they are quick, and by several as soon as they are not."""

from __future__ import annotations

import io
import threading
import time

import numpy as np
from PIL import Image

from patterns import patterns
from trainer.data import ImageFile
from trainer.data.files import decode
from trainer.data.reading import preprocessing_of
from trainer.progress import Silent
from trainer.recipe import DataRecipe

INPUT = preprocessing_of(8, DataRecipe()).input


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def test_quick_images_are_read_by_one_thread(monkeypatch):
    monkeypatch.setattr("trainer.data.files._QUICK_S", 60.0)
    readers = set[int]()
    images = patterns(100, seed=1, size=8)

    def load(index: int) -> bytes:
        readers.add(threading.get_ident())
        return png(images[index])

    rows, bad = decode([ImageFile(f"{n}.png", lambda n=n: load(n)) for n in range(100)], INPUT, Silent())
    assert np.array_equal(rows, images)
    assert not bad
    assert readers == {threading.get_ident()}


def test_slow_images_are_read_by_several_threads():
    images = patterns(100, seed=1, size=8)
    two = threading.Barrier(2)

    def load(index: int) -> bytes:
        if index < 40:
            time.sleep(0.002)
        elif 60 <= index < 70:
            two.wait(60)  # which passes only if another thread reads too
        return png(images[index])

    rows, bad = decode([ImageFile(f"{n}.png", lambda n=n: load(n)) for n in range(100)], INPUT, Silent())
    assert np.array_equal(rows, images)
    assert not bad

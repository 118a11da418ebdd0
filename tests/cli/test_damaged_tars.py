"""A tar that is cut off or damaged is read as far as it can be, and never taken for a whole one."""

from __future__ import annotations

import os

import pytest

from damaged_tars import damaged
from folders import tar
from libkd_sdk.shards.tars import images_in_tar
from sdk.errors import ImageError


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("cut in an image", "in 3.png (unexpected end of data)"),
        ("cut in a header", "after 2.png (truncated header)"),
        ("cut between images", "after 2.png (no end)"),
        ("damaged header", "after 2.png (bad checksum)"),
        ("hole of zeros", "after 2.png (it goes on after its end)"),
        ("size below zero", ""),
    ],
)
def test_a_damaged_tar_is_never_taken_for_a_whole_one(tmp_path, kind, place):
    path = tmp_path / "a.tar"
    path.write_bytes(damaged(kind))
    given = []
    with pytest.raises(ImageError) as caught:
        given.extend(name for name, _ in images_in_tar(path, "deep/a.tar"))
    assert str(caught.value).startswith(f"deep/a.tar: damaged or cut off {place}")
    path.write_bytes(damaged("not at all"))
    assert len(list(images_in_tar(path, "deep/a.tar"))) == 5


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_that_is_cut_off_is_damaged(tmp_path, mode):
    path = tar(tmp_path / "a.tar", {f"{number}.png": os.urandom(10_000) for number in range(20)}, mode)
    assert len(list(images_in_tar(path, "a.tar"))) == 20
    path.write_bytes(path.read_bytes()[:-5000])
    given = list[str]()
    with pytest.raises(ImageError, match=r"a\.tar: damaged or cut off (in|after|at) "):
        given.extend(name for name, _ in images_in_tar(path, "a.tar"))
    assert len(given) < 20
